from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor

from busi_monai.errors import InputError
from busi_monai.training import MixedBatches, make_prepare_batch, prepare_batch
from busi_monai.training.mixing import cutmix, mixup, random_box, soft_classes

ORDER = torch.tensor([2, 0, 3, 1])
BOX = (3, 2, 4, 5)
AREA = 4 * 5 / (12 * 10)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(4, 1, 12, 10, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def targets() -> dict[str, Tensor]:
    """Two lesions, a normal, a lesion."""
    mask = torch.zeros(4, 1, 12, 10)
    mask[0, 0, 2:5, 2:5] = 1
    mask[1, 0, 6:9, 1:9] = 1
    mask[3, 0, 3:8, 4:7] = 1
    return {"seg": mask, "cls": torch.tensor([1, 2, 0, 2])}


def one_hot(labels: list[int]) -> np.ndarray:
    return np.eye(3)[labels]


def test_mixup_is_a_weighted_mean(image: Tensor, targets: dict[str, Tensor]) -> None:
    images, mixed = mixup(image, targets, ORDER, 0.7)
    partners = ORDER.tolist()
    for found, before in ((images, image), (mixed["seg"], targets["seg"])):
        values = before.numpy()
        np.testing.assert_allclose(found, 0.7 * values + 0.3 * values[partners], atol=1e-6)
    labels = targets["cls"].tolist()
    expected = 0.7 * one_hot(labels) + 0.3 * one_hot([labels[partner] for partner in partners])
    np.testing.assert_allclose(mixed["cls"], expected, atol=1e-6)
    assert mixed["cls"].dtype == mixed["seg"].dtype == images.dtype == torch.float32


def test_cutmix_pastes_a_rectangle_and_mixes_classes_by_its_area(
    image: Tensor, targets: dict[str, Tensor]
) -> None:
    images, mixed = cutmix(image, targets, ORDER, BOX)
    partners = ORDER.tolist()
    for found, before in ((images, image), (mixed["seg"], targets["seg"])):
        expected = before.numpy().copy()
        expected[:, :, 2:7, 3:7] = before.numpy()[partners][:, :, 2:7, 3:7]
        np.testing.assert_array_equal(found, expected)
    labels = targets["cls"].tolist()
    others = one_hot([labels[partner] for partner in partners])
    expected = (1 - AREA) * one_hot(labels) + AREA * others
    np.testing.assert_allclose(mixed["cls"], expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_whole_share_changes_nothing(
    kind: str, image: Tensor, targets: dict[str, Tensor]
) -> None:
    if kind == "mixup":
        images, mixed = mixup(image, targets, ORDER, 1.0)
    else:
        images, mixed = cutmix(image, targets, ORDER, (4, 4, 0, 0))
    assert torch.equal(images, image)
    assert torch.equal(mixed["seg"], targets["seg"])
    assert torch.equal(mixed["cls"], soft_classes(targets["cls"], 3))


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_what_came_in_is_left_alone(kind: str, image: Tensor, targets: dict[str, Tensor]) -> None:
    before = [image.clone(), *(value.clone() for value in targets.values())]
    mixup(image, targets, ORDER, 0.5) if kind == "mixup" else cutmix(image, targets, ORDER, BOX)
    for old, new in zip(before, [image, *targets.values()], strict=True):
        assert torch.equal(old, new)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
@pytest.mark.parametrize("missing", ["seg", "cls"])
def test_missing_truth(kind: str, missing: str, image: Tensor, targets: dict[str, Tensor]) -> None:
    """Image 0 lacks a truth; image 1 has it as a partner, and image 0 has image 2."""
    targets[missing][0] = -1
    if kind == "mixup":
        images, mixed = mixup(image, targets, ORDER, 0.7)
        whole, all_mixed = mixup(image, targets, torch.tensor([2, 1, 3, 1]), 0.7)
    else:
        images, mixed = cutmix(image, targets, ORDER, BOX)
        whole, all_mixed = cutmix(image, targets, torch.tensor([2, 1, 3, 1]), BOX)
    soft = {**targets, "cls": soft_classes(targets["cls"], 3)}
    # image 1 stays as it is, since its partner has not got what it has
    assert torch.equal(images[1], image[1])
    for key in ("seg", "cls"):
        assert torch.equal(mixed[key][1], soft[key][1])
    # image 0 is mixed, what it lacks stays missing, and the other truth is mixed
    other = {"seg": "cls", "cls": "seg"}[missing]
    assert not torch.equal(images[0], image[0])
    assert torch.all(mixed[missing][0] == -1)
    assert not torch.any(mixed[other][0] == -1)
    assert torch.equal(mixed[other][0], all_mixed[other][0])
    # all others are mixed as if nothing were missing
    assert torch.equal(images[2:], whole[2:])
    assert torch.equal(mixed["seg"][2:], all_mixed["seg"][2:])
    assert not torch.any(mixed[missing][1:] == -1)


def test_targets_may_lack_a_key(image: Tensor, targets: dict[str, Tensor]) -> None:
    for key in ("seg", "cls"):
        only = {key: targets[key]}
        assert set(mixup(image, only, ORDER, 0.5)[1]) == {key}
        assert set(cutmix(image, only, ORDER, BOX)[1]) == {key}


def batch(image: Tensor, targets: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"image": image, "label": targets["seg"], "class_label": targets["cls"]}


@pytest.mark.parametrize("options", [{}, {"mixup": 0.0}, {"mixup": 1.0, "probability": 0}])
def test_where_nothing_is_mixed_it_is_prepare_batch_itself(options: dict[str, float]) -> None:
    assert make_prepare_batch(options) is prepare_batch


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_same_seed_mixes_the_same(kind: str, image: Tensor, targets: dict[str, Tensor]) -> None:
    def draw(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        mix = make_prepare_batch({kind: 1.0})
        results = [mix(batch(image, targets), "cpu") for _ in range(5)]
        return [tensor for loaded, mixed in results for tensor in (loaded, *mixed.values())]

    with torch.random.fork_rng():
        first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def mixed_batches(count: int, **options: float) -> list[dict[str, Tensor]]:
    """Return the targets of batches of one dark normal and one bright malignant image."""
    image = torch.stack([torch.zeros(1, 16, 16), torch.ones(1, 16, 16)])
    mix = MixedBatches(3, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = [
            mix({"image": image, "label": image, "class_label": torch.tensor([0, 2])}, "cpu")
            for _ in range(count)
        ]
    return [{"image": loaded, **targets} for loaded, targets in drawn]


def test_batches_are_mixed_as_often_as_asked() -> None:
    drawn = mixed_batches(400, mixup=1.0, probability=0.25)
    untouched = [targets for targets in drawn if targets["cls"].ndim == 1]
    assert 260 < len(untouched) < 340
    assert all(targets["cls"].tolist() == [0, 2] for targets in untouched)


def test_both_kinds_share_the_batches() -> None:
    drawn = mixed_batches(400, mixup=1.0, cutmix=1.0)
    changed = [targets for targets in drawn if 0 < float(targets["image"].mean(0).min()) < 1]
    blended = [targets for targets in changed if 0 < float(targets["image"][0].max()) < 1]
    # a quarter of all: half are mixup, and half of the orders leave two images in place
    assert 70 < len(blended) < 130


@pytest.mark.parametrize("alpha", [0.2, 1.0, 4.0])
def test_the_shares_follow_the_beta_distribution(alpha: float) -> None:
    shares = [float(targets["image"][1, 0, 0, 0]) for targets in mixed_batches(600, mixup=alpha)]
    own = np.array([share for share in shares if share != 1])
    assert 240 < len(own) < 360
    assert own.mean() == pytest.approx(0.5, abs=0.08)
    assert own.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.25)


def test_images_masks_and_classes_are_mixed_by_the_same_share() -> None:
    for targets in mixed_batches(60, mixup=1.0, cutmix=1.0):
        bright = targets["image"].mean(dim=(1, 2, 3))
        torch.testing.assert_close(targets["seg"].mean(dim=(1, 2, 3)), bright)
        torch.testing.assert_close(targets["cls"][:, 2], bright)
        torch.testing.assert_close(targets["cls"].sum(1), torch.ones(2))


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 1.0])
def test_a_box_lies_in_the_image_and_has_its_aspect(part: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        boxes = [random_box((60, 90), part) for _ in range(200)]
    for left, top, width, height in boxes:
        assert 0 <= left <= left + width <= 90
        assert 0 <= top <= top + height <= 60
    widths, heights = ([box[side] for box in boxes] for side in (2, 3))
    assert abs(max(widths) - 90 * part**0.5) <= 1
    assert abs(max(heights) - 60 * part**0.5) <= 1
    if 0 < part < 0.5:
        inner = [box for box in boxes if box[2] == max(widths) and box[3] == max(heights)]
        assert len(inner) > 10 and len({box[:2] for box in inner}) > 5


def test_a_history_is_dropped_where_images_are_mixed(
    image: Tensor, targets: dict[str, Tensor]
) -> None:
    images, _ = MixedBatches(mixup=1.0)(batch(MetaTensor(image), targets), "cpu")
    assert type(images) is Tensor


def test_without_a_class_head_classes_are_left_out(
    image: Tensor, targets: dict[str, Tensor]
) -> None:
    targets["cls"][:] = torch.tensor([0, -1, 1, -1])  # no reason not to mix
    with torch.random.fork_rng():
        torch.manual_seed(0)
        images, mixed = MixedBatches(0, mixup=1.0)(batch(image, targets), "cpu")
    assert set(mixed) == {"seg"}
    changed = [not torch.equal(a, b) for a, b in zip(images, image, strict=True)]
    assert sum(changed) >= 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mixpu": 0.2}, "takes mixup, cutmix, probability, got 'mixpu'"),
        ({"mixup": -1}, "mixup must be at least 0, got -1"),
        ({"cutmix": "much"}, "cutmix must be at least 0, got much"),
        ({"mixup": 1, "probability": 1.5}, r"probability must be a number in \[0, 1\], got 1.5"),
    ],
)
def test_a_wrong_option_is_named_with_its_value(options: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=f"mixing_options.* {message}"):
        make_prepare_batch(options)
