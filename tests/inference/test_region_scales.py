"""From DICOM files with several ultrasound regions to table, report, page and NIfTI mask.

The masks are given, so that no network decides what is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from busi_monai.cases import Case
from busi_monai.curation.storage import store_case
from busi_monai.inference import ModelIdentity, Prediction, PredictionsFolder
from busi_monai.inference.formats import FurtherFormats
from busi_monai.inference.prediction import prediction_of_item
from busi_monai.io.images import ImageFile, write_mask
from busi_monai.records import RunRecord
from busi_monai.serving.answers import ImageResult, entry_of, warnings_of
from busi_monai.serving.page.cards import size_sentence
from busi_monai.transforms import LoadUltrasoundd

Save = Callable[..., Path]

SIZE = (40, 130)
LEFT, RIGHT = (0, 0, 40, 60), (0, 70, 40, 130)
IN_LEFT, IN_RIGHT, ACROSS, BETWEEN = (
    (5, 5, 25, 45),
    (5, 75, 25, 115),
    (5, 40, 25, 90),
    (5, 61, 25, 69),
)


def region(
    bounds: tuple[int, int, int, int],
    row_cm: float,
    column_cm: float,
    units: int = 3,
    kind: int = 1,
    data: int = 1,
) -> Dataset:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = kind, data, 0
    top, left, bottom, right = bounds
    item.RegionLocationMinX0, item.RegionLocationMinY0 = left, top
    item.RegionLocationMaxX1, item.RegionLocationMaxY1 = right - 1, bottom - 1
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = units
    item.PhysicalDeltaX, item.PhysicalDeltaY = column_cm, row_cm
    return item


def predicted(file: ImageFile | Path, *boxes: tuple[int, int, int, int]) -> Prediction:
    """What ``Predictor`` gives for a file if the network outlines these boxes."""
    item = LoadUltrasoundd()({"image": file if isinstance(file, ImageFile) else str(file)})
    mask = np.zeros(SIZE, dtype=np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 1
    item |= {"pred": mask, "pred_seg": mask[None], "pred_cls": [0.1, 0.7, 0.2]}
    item["predicted_class"] = "benign"
    return prediction_of_item(item, ("normal", "benign", "malignant"), 0.0)


def save(
    save_ultrasound: Save, path: Path, *regions: Dataset, frames: int = 0, **tags: object
) -> Path:
    pixels = np.tile(np.arange(130, dtype=np.uint8), (40, 1))
    if frames:
        pixels = np.stack([pixels] * frames)
    if regions:
        tags["SequenceOfUltrasoundRegions"] = Sequence(regions)
    return save_ultrasound(path, pixels, **tags)


def dual() -> tuple[Dataset, Dataset]:
    return region(LEFT, 0.01, 0.01), region(RIGHT, 0.02, 0.02)


@pytest.mark.parametrize(
    ("regions", "box", "long_mm", "code"),
    [
        (dual(), IN_LEFT, 0.1 * np.hypot(20, 40), None),
        (dual(), IN_RIGHT, 0.2 * np.hypot(20, 40), None),
        (dual(), ACROSS, None, "scale_outside"),
        (dual(), BETWEEN, None, "scale_outside"),
        ((region((0, 0, 40, 65), 0.01, 0.01), region((0, 65, 40, 130), 0.02, 0.02)), ACROSS, None,
         "scale_differs"),
        ((region((0, 0, 40, 65), 0.02, 0.01), region((0, 65, 40, 500), 0.02, 0.01)), ACROSS,
         np.hypot(20 * 0.2, 50 * 0.1), None),
        ((region(LEFT, 0.03, -0.01),), IN_LEFT, np.hypot(20 * 0.3, 40 * 0.1), None),
        ((region(LEFT, 0.01, 0.01, data=2),), IN_LEFT, 0.1 * np.hypot(20, 40), None),
        ((region(LEFT, 0.01, 0.01, units=4),), IN_LEFT, None, "scale_not_lengths"),
        ((region(LEFT, 0.01, 0.01, kind=2),), IN_LEFT, None, "scale_not_lengths"),
        ((region(LEFT, 0.01, 0.01, kind=3, data=3),), IN_LEFT, None, "scale_not_lengths"),
        ((region(LEFT, 0.01, 0.01, data=3),), IN_LEFT, None, "scale_not_lengths"),
        ((region(LEFT, 0.01, 0.0),), IN_LEFT, None, "scale_not_lengths"),
        ((region(LEFT, 0.1, 0.1),), IN_LEFT, np.hypot(20, 40), None),
    ],
)  # fmt: skip
def test_millimetres_are_those_of_the_region_that_holds_the_lesion(
    save_ultrasound: Save,
    tmp_path: Path,
    regions: tuple[Dataset, ...],
    box: tuple[int, int, int, int],
    long_mm: float | None,
    code: str | None,
) -> None:
    path = save(save_ultrasound, tmp_path / "x.dcm", *regions)

    prediction = predicted(path, box)

    assert [warning.code for warning in prediction.warnings] == ([code] if code else [])
    if long_mm is None:
        assert (prediction.diameters_mm, prediction.lesion_mm2) == (None, None)
    else:
        assert prediction.diameters_mm is not None
        assert prediction.diameters_mm[0] == pytest.approx(long_mm, abs=1e-4)


def test_a_region_wins_over_pixel_spacing_with_a_warning(
    save_ultrasound: Save, tmp_path: Path
) -> None:
    for stated, codes in (([1, 1], ["pixel_spacing_differs"]), ([0.2, 0.2], [])):
        path = save(save_ultrasound, tmp_path / "x.dcm", *dual(), PixelSpacing=stated)
        prediction = predicted(path, IN_RIGHT)
        assert prediction.spacing_mm == pytest.approx((0.2, 0.2))
        assert [warning.code for warning in prediction.warnings] == codes


def test_a_pixel_spacing_of_one_alone_is_not_believed(
    save_ultrasound: Save, tmp_path: Path
) -> None:
    prediction = predicted(save(save_ultrasound, tmp_path / "x.dcm", PixelSpacing=[1, 1]), IN_LEFT)

    assert prediction.diameters_mm is None
    assert [warning.code for warning in prediction.warnings] == ["pixel_spacing_not_believed"]


def test_too_many_regions_are_not_believed(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save(save_ultrasound, tmp_path / "x.dcm", *[dual()[0]] * 65)

    prediction = predicted(path, IN_LEFT)

    assert prediction.diameters_mm is None
    assert [warning.code for warning in prediction.warnings] == ["too_many_regions"]


def test_frames_and_crops_have_the_whole_scale(save_ultrasound: Save, tmp_path: Path) -> None:
    path = save(save_ultrasound, tmp_path / "x.dcm", *dual(), frames=3)

    for file in (ImageFile(path, 2), ImageFile(path, 1, crop_to_region=True)):
        assert predicted(file, IN_RIGHT).spacing_mm == pytest.approx((0.2, 0.2))


@pytest.mark.parametrize(
    ("box", "mm", "said"),
    [(IN_RIGHT, 0.2, None), (BETWEEN, None, "no region that is calibrated holds the whole lesion")],
)
def test_table_record_report_page_and_nifti_agree(
    save_ultrasound: Save,
    tmp_path: Path,
    box: tuple[int, int, int, int],
    mm: float | None,
    said: str | None,
) -> None:
    highdicom = pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")
    path = save(save_ultrasound, tmp_path / "x.dcm", *dual(), frames=2)
    record = RunRecord()
    formats = FurtherFormats(["nifti", "dicom-sr"], ModelIdentity("b", "ab" * 32))
    with PredictionsFolder(tmp_path / "out", record=record, formats=formats) as folder:
        for number in range(2):
            file = ImageFile(path, number)
            prediction = predicted(file, box)
            row = folder.add(f"x_{number}", file, prediction)

    area = (box[2] - box[0]) * (box[3] - box[1])
    assert row["lesion_mm2"] == (None if mm is None else pytest.approx(area * mm * mm))
    assert (said or "") in (row["warnings"] or "")
    assert (row["warnings"] is None) is (said is None)
    told = [(w["file"], w["code"], w["images"]) for w in record.warnings]
    assert told == ([] if said is None else [(str(path), "scale_outside", 2)])

    report = highdicom.sr.srread(tmp_path / "out/dicom/x_0_sr.dcm")
    units = {str(found.value) for found in report.iterall() if found.keyword == "CodeValue"}
    assert ("mm2" in units, "{pixels}" in units) == (mm is not None, mm is None)
    texts = [str(element.value) for element in report.iterall() if element.keyword == "TextValue"]
    assert any(said in text for text in texts) if said else not any("Note" in t for t in texts)

    outcome = ImageResult(
        "x", "x.dcm", 0, prediction, warnings=tuple(warnings_of(prediction, (32, 32)))
    )
    entry = entry_of(outcome)
    assert (" mm, " in size_sentence(entry)) is (mm is not None)
    messages = [warning["message"] for warning in entry["warnings"]]
    assert any(said in message for message in messages) if said else messages == []

    header = nibabel.load(tmp_path / "out/nifti/x_0.nii.gz").header
    assert header.get_zooms() == pytest.approx((mm or 1, mm or 1))
    assert header.get_xyzt_units()[0] == ("unknown" if mm is None else "mm")


def test_the_page_tells_axes_in_millimetres_where_only_the_area_has_none() -> None:
    lesion = {"pixels": 600, "fraction": 0.1, "diameters_px": [30.0, 20.0], "mm2": None}

    assert size_sentence({"lesion": {**lesion, "diameters_mm": [3.0, 2.0]}}) == (
        "Lesion: 3.0 × 2.0 mm, 600 px in all, 10.0 % of the image"
    )


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [([IN_RIGHT], (0.2, 0.2)), ([IN_LEFT], (0.1, 0.1)), ([IN_LEFT, IN_RIGHT], None), ([], None)],
)
def test_a_prepared_case_has_the_spacing_of_its_lesion(
    save_ultrasound: Save,
    tmp_path: Path,
    boxes: list[tuple[int, int, int, int]],
    expected: tuple[float, float] | None,
) -> None:
    path = save(save_ultrasound, tmp_path / "x.dcm", *dual())
    mask = np.zeros(SIZE)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 1
    write_mask(tmp_path / "m.png", mask)
    case = Case("x", path, (tmp_path / "m.png",), "benign" if boxes else "normal", "folder")

    stored = store_case(case, tmp_path / "prepared")

    found = stored.case.spacing_mm
    assert found is None if expected is None else found == pytest.approx(expected)
    stated = store_case(replace(case, spacing_mm=(3.0, 3.0)), tmp_path / "stated")
    assert stated.case.spacing_mm == (3.0, 3.0)
