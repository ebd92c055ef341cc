from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from busi_monai.cases import Case
from busi_monai.curation.storage import MaskTreatment, PreparedStore, store_case
from busi_monai.errors import ImageReadError
from busi_monai.io.images import pixel_sha256, read_image, read_mask, write_mask, write_png

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (20, 30), dtype=np.uint8)


def case(image: Path, *masks: Path, class_name: str = "benign") -> Case:
    return Case(image.stem, image, masks, class_name, "busi")


def lesion(path: Path, shape=(20, 30), rows=slice(5, 10)) -> Path:
    mask = np.zeros(shape, bool)
    mask[rows, 8:20] = True
    write_mask(path, mask)
    return path


def test_a_png_is_copied_byte_for_byte(tmp_path):
    write_png(tmp_path / "benign (1).png", GREY)
    mask = lesion(tmp_path / "benign (1)_mask.png")
    stored = store_case(case(tmp_path / "benign (1).png", mask), tmp_path / "out")
    copied = tmp_path / "out" / stored.image
    assert copied.read_bytes() == (tmp_path / "benign (1).png").read_bytes()
    assert stored.image == "images/benign (1).png"
    assert stored.sha256 == pixel_sha256(read_image(copied).pixels)
    with Image.open(tmp_path / "out" / "labels/benign (1).png") as label:
        values = np.asarray(label)
    assert values.dtype == np.uint8
    assert set(np.unique(values)) == {0, 255}
    assert np.array_equal(values > 0, read_mask(mask))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "F", "I;16"])
@pytest.mark.parametrize("suffix", [".tiff", ".bmp", ".jpg"])
def test_other_formats_keep_their_pixels(tmp_path, mode, suffix):
    path = tmp_path / f"scan{suffix}"
    if mode == "I;16":
        loaded = Image.fromarray(GREY.astype(np.uint16) * 199)
    else:
        loaded = Image.fromarray(GREY).convert("RGB" if mode in {"P", "CMYK"} else "L")
        loaded = loaded.convert(mode)
    try:
        loaded.save(path)
    except OSError:
        pytest.skip(f"{suffix} has no {mode}")
    stored = store_case(case(path, class_name="normal"), tmp_path / "out")
    written = read_image(tmp_path / "out" / stored.image).pixels
    assert pixel_sha256(written) == stored.sha256 == pixel_sha256(read_image(path).pixels)


def test_an_image_that_is_turned_by_exif_is_stored_upright(tmp_path):
    turned = Image.fromarray(GREY)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "scan.png", exif=exif)
    mask = lesion(tmp_path / "mask.png", shape=(30, 20))
    stored = store_case(case(tmp_path / "scan.png", mask), tmp_path / "out")
    with Image.open(tmp_path / "out" / stored.image) as image:
        assert image.size == (20, 30)
        assert image.getexif().get(0x0112, 1) == 1
        assert np.array_equal(np.asarray(image), np.rot90(GREY, -1))


def test_a_nifti_image_becomes_a_png_with_its_spacing_kept(tmp_path):
    nibabel = pytest.importorskip("nibabel")
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(GREY.T.astype(np.float32) * 3.7, np.diag([0.2, 0.1, 1, 1]))
    image.header.set_xyzt_units("mm")
    nibabel.save(image, path)
    stored = store_case(Case("scan", path, (), "normal", "folder"), tmp_path / "out")
    assert pixel_sha256(read_image(tmp_path / "out" / stored.image).pixels) == stored.sha256
    assert stored.case.spacing_mm == pytest.approx((0.1, 0.2))


def test_masks_are_united_and_a_normal_without_mask_gets_an_empty_one(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    masks = [lesion(tmp_path / f"m{k}.png", rows=slice(8 * k, 8 * k + 4)) for k in (0, 1)]
    united = store_case(case(tmp_path / "a.png", *masks), tmp_path / "out")
    assert read_mask(tmp_path / "out" / united.label).sum() == 2 * 4 * 12
    normal = store_case(case(tmp_path / "a.png", class_name="normal"), tmp_path / "out")
    with Image.open(tmp_path / "out" / normal.label) as label:
        assert not np.asarray(label).any()


def test_a_mask_of_another_size_writes_nothing(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    mask = lesion(tmp_path / "m.png", shape=(30, 20))
    with pytest.raises(ImageReadError, match="expected the size"):
        store_case(case(tmp_path / "a.png", mask), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_store_goes_on_past_what_cannot_be_used(tmp_path):
    write_png(tmp_path / "good.png", GREY)
    (tmp_path / "bad.png").write_bytes(b"")
    write_mask(tmp_path / "empty.png", np.zeros((20, 30)))
    store = PreparedStore(tmp_path / "out", tmp_path, MaskTreatment())
    store.add(case(tmp_path / "good.png", lesion(tmp_path / "m.png")))
    store.add(case(tmp_path / "bad.png"))
    store.add(Case("hollow", tmp_path / "good.png", (tmp_path / "empty.png",), "benign", "busi"))
    assert list(store.stored) == ["good"]
    assert store.excluded["bad"].startswith("unusable: bad.png: the file is empty")
    assert (
        store.excluded["hollow"]
        == "empty mask: the lesion of a benign case has no pixel in empty.png"
    )
    assert [(problem.id, problem.file) for problem in store.failures] == [("bad", "bad.png")]


def test_a_lesion_without_mask_can_be_kept_for_its_class(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    store = PreparedStore(tmp_path / "out", tmp_path, MaskTreatment(missing_mask="classify-only"))
    store.add(case(tmp_path / "a.png"))
    assert store.stored["a"].label is None
    assert not (tmp_path / "out/labels").exists()


def test_single_masks_are_written_for_images_with_several(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    masks = [lesion(tmp_path / f"m{k}.png", rows=slice(8 * k, 8 * k + 4)) for k in (0, 1)]
    store = PreparedStore(tmp_path / "out", tmp_path, MaskTreatment("split"))
    store.add(case(tmp_path / "a.png", *masks))
    labels = store.add_single_masks("a")
    assert labels == {"a#1": "labels/a#1.png", "a#2": "labels/a#2.png"}
    for mask, label in zip(masks, labels.values(), strict=True):
        assert np.array_equal(read_mask(tmp_path / "out" / label), read_mask(mask))
    store.keep_only(["images/a.png", "labels/a#1.png"])
    left = {path.name for path in (tmp_path / "out").rglob("*.png")}
    assert left == {"a.png", "a#1.png"}


def test_cleaned_masks_have_no_specks(tmp_path):
    write_png(tmp_path / "a.png", GREY)
    mask = read_mask(lesion(tmp_path / "m.png", rows=slice(5, 15)))
    mask[0, 0] = True
    write_mask(tmp_path / "m.png", mask)
    stored = store_case(case(tmp_path / "a.png", tmp_path / "m.png"), tmp_path / "out",
                        mask_cleanup=True)  # fmt: skip
    assert not read_mask(tmp_path / "out" / stored.label)[0, 0]
