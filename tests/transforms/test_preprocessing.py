from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import CacheDataset, DataLoader, MetaTensor, PersistentDataset, decollate_batch
from monai.data.utils import pickle_hashing
from monai.transforms import Invertd
from monai.utils import SpaceKeys

from busi_monai.datasets import clean_mask
from busi_monai.errors import ImageReadError
from busi_monai.io.images import write_mask, write_png
from busi_monai.settings import InferenceSettings
from busi_monai.transforms import (
    collate_items,
    prediction_postprocessing,
    prediction_preprocessing,
)

NATIVE = (90, 140)

Draw = Callable[..., np.ndarray]


@pytest.fixture
def item(textured: Draw, ellipse: Draw, tmp_path: Path) -> dict[str, str]:
    write_png(tmp_path / "image.png", (textured(NATIVE) * 255).astype(np.uint8))
    write_mask(tmp_path / "mask.png", ellipse(NATIVE, centre=(30, 100), radii=(15, 25)))
    return {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "mask.png"), "id": "a"}


@pytest.mark.parametrize("aspect", ["stretch", "pad"])
@pytest.mark.parametrize("size", [(64, 64), (48, 96), (128, 200)])
def test_images_and_masks_get_the_networks_size(
    item: dict[str, str], aspect: str, size: tuple[int, int]
) -> None:
    settings = InferenceSettings(image_size=size, aspect=aspect)
    ready = prediction_preprocessing(settings, with_label=True)(item)
    assert isinstance(ready["image"], MetaTensor)
    assert ready["image"].shape == ready["label"].shape == (1, *size)
    assert ready["image"].dtype == ready["label"].dtype == torch.float32
    assert 0 <= float(ready["image"].min()) <= float(ready["image"].max()) <= 1
    assert set(ready["label"].unique().tolist()) == {0, 1}
    assert ready["native_label"].shape == (1, *NATIVE)
    assert ready["native_label"].dtype == torch.uint8


def test_image_and_mask_stay_on_top_of_each_other(ellipse: Draw) -> None:
    lesion = ellipse((90, 144), centre=(30, 100), radii=(15, 25))
    for aspect in ("stretch", "pad"):
        settings = InferenceSettings(image_size=(30, 48), aspect=aspect)
        preprocessing = prediction_preprocessing(settings, with_label=True)
        ready = preprocessing({"image": lesion.astype(np.uint8) * 255, "label": lesion})
        seen, label = ready["image"][0] >= 0.5, ready["label"][0] > 0
        rows, columns = (where.float().mean() for where in torch.where(seen))
        mask_rows, mask_columns = (where.float().mean() for where in torch.where(label))
        assert abs(rows - mask_rows) < 0.1
        assert abs(columns - mask_columns) < 0.1


def test_padding_is_black_around_the_centre_and_keeps_the_aspect_ratio() -> None:
    settings = InferenceSettings(image_size=(100, 100), aspect="pad")
    ready = prediction_preprocessing(settings)({"image": np.ones((50, 100))})
    assert torch.equal(ready["image"][0, :25], torch.zeros(25, 100))
    assert torch.allclose(ready["image"][0, 25:75].as_tensor(), torch.ones(50, 100))
    assert torch.equal(ready["image"][0, 75:], torch.zeros(25, 100))


def test_bicubic_overshoot_is_clipped() -> None:
    step = np.zeros((20, 20))
    step[:, 10:] = 1
    ready = prediction_preprocessing(InferenceSettings(image_size=(64, 64)))({"image": step})
    assert float(ready["image"].min()) == 0
    assert float(ready["image"].max()) == 1


def test_fine_stripes_do_not_alias() -> None:
    stripes = np.tile(np.array([0.0, 1.0]), (256, 128))
    ready = prediction_preprocessing(InferenceSettings(image_size=(60, 60)))({"image": stripes})
    assert float(ready["image"][0, :, 2:-2].std()) < 0.02


def test_zscore_takes_mean_and_deviation_of_the_whole_input(textured: Draw) -> None:
    settings = InferenceSettings(image_size=(64, 64), aspect="pad", normalisation="zscore")
    image = prediction_preprocessing(settings)({"image": textured(NATIVE)})["image"]
    assert abs(float(image.mean())) < 1e-5
    assert abs(float(image.std(correction=0)) - 1) < 1e-4


def test_a_uniform_image_has_a_zscore() -> None:
    settings = InferenceSettings(image_size=(64, 64), normalisation="zscore")
    image = prediction_preprocessing(settings)({"image": np.full((50, 50), 0.5)})["image"]
    assert bool(torch.isfinite(image.as_tensor()).all())


def test_an_item_without_mask_gets_one_of_minus_one(textured: Draw) -> None:
    settings = InferenceSettings(image_size=(32, 48))
    preprocessing = prediction_preprocessing(settings, with_label=True)
    for item in ({"image": textured(NATIVE)}, {"image": textured(NATIVE), "label": None}):
        ready = preprocessing(item)
        assert torch.equal(ready["label"], torch.full((1, 32, 48), -1.0))
        assert "native_label" not in ready


@pytest.mark.filterwarnings("error:To copy construct from a tensor:UserWarning")
def test_clean_labels_are_trained_on_but_not_measured_against(
    textured: Draw, ellipse: Draw, tmp_path: Path
) -> None:
    speckled = ellipse(NATIVE, centre=(45, 70), radii=(30, 50)).astype(bool)
    speckled[45, 70] = False  # a hole
    speckled[2, 2] = True  # a speck
    write_png(tmp_path / "image.png", (textured(NATIVE) * 255).astype(np.uint8))
    write_mask(tmp_path / "mask.png", speckled)
    item = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "mask.png")}
    settings = InferenceSettings(image_size=NATIVE)
    found, cleaned = (
        prediction_preprocessing(settings, with_label=True, clean_labels=clean)(item)
        for clean in (False, True)
    )
    assert np.array_equal(found["label"][0].numpy() > 0, speckled)
    assert np.array_equal(cleaned["label"][0].numpy() > 0, clean_mask(speckled))
    assert cleaned["label"][0, 45, 70] == 1 and cleaned["label"][0, 2, 2] == 0
    for ready in (found, cleaned):
        assert ready["label"].dtype == torch.float32
        assert np.array_equal(ready["native_label"][0].numpy() > 0, speckled)


def test_filters_keep_the_way_back_to_native_size(textured: Draw) -> None:
    settings = InferenceSettings(image_size=(64, 64), median_filter=3, clahe=True)
    ready = prediction_preprocessing(settings)({"image": textured(NATIVE)})
    assert ready["image"].meta["spatial_shape"].tolist() == list(NATIVE)
    assert len(ready["image"].applied_operations) == 1


def test_a_bad_file_is_told_once_and_by_its_own_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(RuntimeError) as caught:
        prediction_preprocessing(InferenceSettings())({"image": str(tmp_path / "broken.png")})
    assert isinstance(caught.value.__cause__, ImageReadError)
    assert not caplog.records


def test_a_pickled_copy_prepares_alike_and_inverts_what_the_first_one_made(textured: Draw) -> None:
    preprocessing = prediction_preprocessing(InferenceSettings(image_size=(64, 64), clahe=True))
    copy = pickle.loads(pickle.dumps(preprocessing))
    ready = preprocessing({"image": textured(NATIVE)})
    assert torch.equal(ready["image"], copy({"image": textured(NATIVE)})["image"])
    back = Invertd("image", copy, nearest_interp=False)(ready)["image"]
    assert back.shape == (1, *NATIVE)


def _datasets(item: dict[str, str], transform: object, folder: Path) -> list[object]:
    persistent = {"cache_dir": folder, "track_meta": True, "hash_transform": pickle_hashing}
    return [
        CacheDataset([item], transform, progress=False),
        PersistentDataset([item], transform, **persistent),
        PersistentDataset([item], transform, **persistent),
    ]


def test_cached_and_persistent_items_go_back_to_native_size(
    item: dict[str, str], tmp_path: Path
) -> None:
    settings = InferenceSettings(image_size=(64, 64), aspect="pad")
    preprocessing = prediction_preprocessing(settings, with_label=True)
    postprocessing = prediction_postprocessing(settings, preprocessing)
    expected = preprocessing(item)
    for dataset in _datasets(item, preprocessing, tmp_path / "cache"):
        cached = dataset[0]
        assert torch.equal(cached["image"], expected["image"])
        result = postprocessing({**cached, "seg": cached["label"] * 20 - 10})
        assert result["pred"].shape == NATIVE
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 1


@pytest.mark.skipif(
    SpaceKeys.RAS.__reduce_ex__(2)[0] is getattr,
    reason="this Python (3.11.2 for example) pickles enums by getattr, which torch refuses to load",
)
@pytest.mark.filterwarnings("error:Corrupt cache file")
def test_a_persistent_item_is_read_back_rather_than_made_again(
    item: dict[str, str], tmp_path: Path
) -> None:
    preprocessing = prediction_preprocessing(
        InferenceSettings(image_size=(64, 64)), with_label=True
    )
    for _ in range(2):
        dataset = PersistentDataset([item], preprocessing, cache_dir=tmp_path, track_meta=True)
        assert dataset[0]["image"].applied_operations


@pytest.mark.slow
def test_spawned_workers_prepare_items_that_go_back(item: dict[str, str]) -> None:
    settings = InferenceSettings(image_size=(64, 64))
    preprocessing = prediction_preprocessing(settings, with_label=True)
    dataset = CacheDataset([item], preprocessing, cache_num=0, progress=False)
    loader = DataLoader(
        dataset, num_workers=1, multiprocessing_context="spawn", collate_fn=collate_items
    )
    (batch,) = loader
    (ready,) = decollate_batch(batch)
    result = prediction_postprocessing(settings, preprocessing)(
        {**ready, "seg": ready["label"] * 20 - 10}
    )
    assert result["pred"].shape == NATIVE
