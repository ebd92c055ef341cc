"""From ultrasound DICOM files to segmentations and reports that other software reads."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from click.testing import CliRunner
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from busi_monai.cli.main import main
from busi_monai.cli.predict import FORMATS
from busi_monai.errors import InputError
from busi_monai.inference import (
    PREDICTION_FORMATS,
    ModelIdentity,
    Prediction,
    Predictor,
    predict,
    report_object,
    segmentation_object,
    source_reference,
    write_nifti_mask,
)
from busi_monai.io.images import read_image, read_mask
from busi_monai.io.pixel_scales import PixelScale

highdicom = pytest.importorskip("highdicom", reason="the extra 'dicom' is not installed")

Save = Callable[..., Path]
MODEL = ModelIdentity("breast_ultrasound", "ab" * 32)
SECRETS = (b"ecret", b"ECRET", b"19700102", b"20200304")


def grey(frames: int = 0) -> np.ndarray:
    rows, columns = np.mgrid[:70, :110]
    still = np.clip(rows * 1.3 + columns * 0.9 + 60 * np.sin(columns / 5), 0, 255).astype(np.uint8)
    return still if not frames else np.stack([np.roll(still, 9 * n, axis=1) for n in range(frames)])


def regions(delta_cm: float, bounds: tuple[int, int, int, int] = (0, 0, 69, 109)) -> Sequence:
    item = Dataset()
    item.RegionSpatialFormat, item.RegionDataType, item.RegionFlags = 1, 1, 0
    item.RegionLocationMinY0, item.RegionLocationMinX0 = bounds[:2]
    item.RegionLocationMaxY1, item.RegionLocationMaxX1 = bounds[2:]
    item.PhysicalUnitsXDirection = item.PhysicalUnitsYDirection = 3
    item.PhysicalDeltaX = item.PhysicalDeltaY = delta_cm
    return Sequence([item])


def errors_of_validator(path: Path) -> list[str]:
    validator = shutil.which("dciodvfy")
    if validator is None:  # Debian's dicom3tools
        return []
    told = subprocess.run([validator, str(path)], capture_output=True, check=False)
    lines = (told.stdout + told.stderr).decode(errors="replace").splitlines()
    return [line for line in lines if line.startswith("Error")]


def numbers(report: Dataset) -> dict[str, tuple[float, str]]:
    """Return value and unit by meaning of every number in a report."""
    found = {}
    for item in report.iterall():
        if item.keyword == "ContentSequence":
            for content in item.value:
                if content.ValueType == "NUM":
                    measured = content.MeasuredValueSequence[0]
                    found[content.ConceptNameCodeSequence[0].CodeMeaning] = (
                        float(measured.NumericValue),
                        measured.MeasurementUnitsCodeSequence[0].CodeValue,
                    )
    return found


@pytest.mark.parametrize(("frames", "where"), [(1, [0]), (4, [1, 3]), (3, [0])])
@pytest.mark.parametrize("fractional", [False, True])
@pytest.mark.parametrize("keep_ids", [False, True])
def test_segmentation_is_read_back(
    save_ultrasound: Save,
    tmp_path: Path,
    frames: int,
    where: list[int],
    fractional: bool,
    keep_ids: bool,
) -> None:
    source = save_ultrasound(tmp_path / "x.dcm", grey(frames if frames > 1 else 0))
    mask = np.zeros((70, 110), dtype=np.uint8)
    mask[10:30, 41:70] = 200 if fractional else 1
    path = tmp_path / "seg.dcm"

    segmentation_object(
        source_reference(source, keep_ids=keep_ids),
        dict.fromkeys(where, mask),
        MODEL,
        of_loop=frames > 1,
        fractional=fractional,
    ).save_as(path)

    read = highdicom.seg.segread(path)
    assert np.array_equal(np.atleast_3d(read.pixel_array.reshape(-1, 70, 110)), [mask] * len(where))
    assert read.segmentation_type.value == ("FRACTIONAL" if fractional else "BINARY")
    original = pydicom.dcmread(source)
    for frame, group in zip(where, read.PerFrameFunctionalGroupsSequence, strict=True):
        (referred,) = group.DerivationImageSequence[0].SourceImageSequence
        assert referred.ReferencedSOPInstanceUID == original.SOPInstanceUID
        assert referred.ReferencedSOPClassUID == original.SOPClassUID
        assert referred.get("ReferencedFrameNumber") == (None if frames == 1 else frame + 1)
    assert read.StudyInstanceUID == original.StudyInstanceUID
    assert (str(read.PatientName) == "Secret^Name") is keep_ids
    assert any(secret in path.read_bytes() for secret in SECRETS) is keep_ids
    assert errors_of_validator(path) == []


def test_a_segmentation_without_lesion(save_ultrasound: Save, tmp_path: Path) -> None:
    for frames in (1, 3):
        source = save_ultrasound(tmp_path / "x.dcm", grey(frames if frames > 1 else 0))
        made = segmentation_object(source_reference(source), {}, MODEL, of_loop=frames > 1)
        made.save_as(tmp_path / "seg.dcm")
        assert not highdicom.seg.segread(tmp_path / "seg.dcm").pixel_array.any()
        assert errors_of_validator(tmp_path / "seg.dcm") == []


@pytest.mark.parametrize("spacing", [None, (0.1, 0.2)])
@pytest.mark.parametrize("frame", [None, 2])
def test_report_is_read_back(
    save_ultrasound: Save,
    tmp_path: Path,
    prediction: Prediction,
    spacing: tuple[float, float] | None,
    frame: int | None,
) -> None:
    source = save_ultrasound(tmp_path / "x.dcm", grey(0 if frame is None else 4))
    path = tmp_path / "sr.dcm"

    report_object(
        source_reference(source), replace(prediction, scale=PixelScale(spacing)), MODEL, frame=frame
    ).save_as(path)

    report = highdicom.sr.srread(path)
    found = numbers(report)
    assert found["Probability of cancer"] == (20.0, "%")
    assert found["Probability of benign"] == (70.0, "%")
    if spacing is None:
        assert found["Area"] == (600, "{pixels}")
        assert found["Long axis"] == (pytest.approx(np.hypot(20, 30), abs=1e-3), "{pixels}")
    else:
        assert found["Area"] == (pytest.approx(20 * 0.1 * 30 * 0.2, rel=0.01), "mm2")
        assert found["Long axis"] == (pytest.approx(np.hypot(2, 6), abs=1e-3), "mm")
    told = {str(element.value) for element in report.iterall()}
    assert "Benign" in told
    assert any("research use only" in text for text in told)
    assert MODEL.weights_sha256 in told
    assert pydicom.dcmread(source).SOPInstanceUID in told
    assert not any(secret in path.read_bytes() for secret in SECRETS)
    assert errors_of_validator(path) == []


KINDS = {
    "MONOCHROME2": grey(),
    "MONOCHROME1": 255 - grey(),
    "RGB": np.repeat(grey()[..., None], 3, axis=-1),
    "YBR_FULL": np.dstack([grey(), np.full((70, 110, 2), 128, dtype=np.uint8)]),
    "loop": grey(3),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "tags", [{}, {"PixelSpacing": [0.2, 0.1]}, {"SequenceOfUltrasoundRegions": regions(0.02)}]
)
def test_round_trip(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path, kind: str, tags: dict[str, object]
) -> None:
    photometric = "MONOCHROME2" if kind == "loop" else kind
    source = save_ultrasound(tmp_path / "study/S/IM1", KINDS[kind], photometric, **tags)
    out = tmp_path / "out"

    summary = predict(
        [tmp_path / "study"], out, model=tiny_bundle, formats=["dicom-seg", "dicom-sr", "nifti"]
    )

    assert summary.failures == []
    ids = [row["id"] for row in summary.rows]
    assert ids == (["IM1"] if kind != "loop" else [f"IM1_frame_00{n}" for n in (1, 2, 3)])
    read = highdicom.seg.segread(out / "dicom/IM1_seg.dcm")
    frames = {
        int(
            group.DerivationImageSequence[0].SourceImageSequence[0].get("ReferencedFrameNumber", 1)
        ): pixels
        for group, pixels in zip(
            read.PerFrameFunctionalGroupsSequence,
            read.pixel_array.reshape(-1, 70, 110),
            strict=True,
        )
    }
    for number, id in enumerate(ids, start=1):
        mask = read_mask(out / "masks" / f"{id}.png")
        assert np.array_equal(frames.get(number, np.zeros_like(mask)) > 0, mask)
        assert np.array_equal(read_mask(out / "nifti" / f"{id}.nii.gz"), mask)
    report = highdicom.sr.srread(out / "dicom/IM1_sr.dcm")
    assert read.SegmentSequence[0].TrackingUID in [element.value for element in report.iterall()]
    found = numbers(report)
    told = next(
        r for r in summary.rows if kind != "loop" or r["id"] == summary.cines[0]["summary_id"]
    )
    pixel_mm2 = {0: None, 1: 0.02, 2: 0.04}[len(tags) + ("SequenceOfUltrasoundRegions" in tags)]
    if pixel_mm2 is None:
        assert found["Area"] == (told["lesion_pixels"], "{pixels}")
        assert told["lesion_mm2"] is None
    else:
        assert found["Area"][0] == pytest.approx(told["lesion_pixels"] * pixel_mm2, rel=0.01)
        assert found["Area"][1] == "mm2"
        assert told["lesion_mm2"] == pytest.approx(told["lesion_pixels"] * pixel_mm2, rel=0.01)
    for path in out.rglob("*"):
        if path.is_file():
            assert not any(secret in path.read_bytes() for secret in SECRETS), path
    assert (
        pydicom.dcmread(source).SOPInstanceUID
        == read.ReferencedSeriesSequence[0].ReferencedInstanceSequence[0].ReferencedSOPInstanceUID
    )


def test_the_validator_finds_no_error(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    save_ultrasound(tmp_path / "study/a", KINDS["RGB"], "RGB", PixelSpacing=[0.2, 0.1])
    save_ultrasound(tmp_path / "study/b", KINDS["loop"])

    predict(
        [tmp_path / "study"],
        tmp_path / "out",
        model=tiny_bundle,
        formats=["dicom-seg", "dicom-sr"],
    )

    made = list((tmp_path / "out/dicom").iterdir())
    assert len(made) == 4
    if shutil.which("dciodvfy") is None:
        pytest.skip("dciodvfy is not installed (Debian's dicom3tools)")
    for path in made:
        assert errors_of_validator(path) == []


@pytest.mark.parametrize("has_mask", [True, False])
def test_without_a_lesion_no_size_is_reported(
    save_ultrasound: Save, tmp_path: Path, prediction: Prediction, has_mask: bool
) -> None:
    source = save_ultrasound(tmp_path / "x.dcm", grey())
    changes = {"mask": prediction.mask * 0, "lesion_pixels": 0} if has_mask else {}
    normal = replace(prediction, predicted_class="normal", has_mask=has_mask, **changes)

    report = report_object(source_reference(source), normal, MODEL)

    told = {str(element.value) for element in report.iterall()}
    assert "Area" not in numbers(report)
    assert "Lesion" not in told and "Normal" in told
    report.save_as(tmp_path / "sr.dcm")
    assert errors_of_validator(tmp_path / "sr.dcm") == []


def test_a_lossy_source_stays_lossy(save_ultrasound: Save, tmp_path: Path) -> None:
    tags = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 8,
        "LossyImageCompressionMethod": "ISO_10918_1",
    }
    source = save_ultrasound(tmp_path / "x.dcm", grey(), **tags)

    made = segmentation_object(source_reference(source), {}, MODEL)

    assert {name: made.get(name) for name in tags} == tags


@pytest.mark.parametrize(
    "odd",
    [
        {"PatientSex": "W"},
        {"PatientBirthDate": "1970-01-02"},
        {"StudyTime": "10:11:12"},
        {"SOPClassUID": "1.3.12.2.1107.5.9.1"},
        {"PixelSpacing": ["inf", "inf"]},
        {"PatientName": "Secret Single"},
    ],
)
def test_an_odd_file_does_not_harm_its_neighbours(
    tiny_bundle: Path,
    save_ultrasound: Save,
    tmp_path: Path,
    odd: dict[str, object],
    recwarn: pytest.WarningsRecorder,
) -> None:
    for name in ("a", "c"):
        save_ultrasound(tmp_path / f"{name}.dcm", grey())
    dataset = pydicom.dcmread(save_ultrasound(tmp_path / "b.dcm", grey()))
    pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE
    try:
        for tag, value in odd.items():
            dataset[tag] = pydicom.DataElement(
                tag, pydicom.datadict.dictionary_VR(tag), value, validation_mode=0
            )
        dataset.save_as(tmp_path / "b.dcm")
    finally:
        pydicom.config.settings.writing_validation_mode = pydicom.config.RAISE
    recwarn.clear()

    summary = predict(
        [tmp_path],
        tmp_path / "out",
        model=tiny_bundle,
        formats=["dicom-seg", "dicom-sr"],
        keep_ids=True,
    )

    assert summary.predicted == 3
    assert {"a_seg.dcm", "a_sr.dcm", "c_seg.dcm", "c_sr.dcm"} <= {
        path.name for path in (tmp_path / "out/dicom").iterdir()
    }
    told = json.dumps(summary.failures) + "".join(str(warning.message) for warning in recwarn)
    assert not any(str(value) in told for value in odd.values() if isinstance(value, str))


def test_equal_names_in_two_studies_keep_their_own_objects(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    save_ultrasound(tmp_path / "ST0/SE0/IM0", grey(2))
    save_ultrasound(tmp_path / "ST1/SE0/IM0", grey())
    save_ultrasound(tmp_path / "ST2/SE0/IM0", grey(3))

    summary = predict([tmp_path], tmp_path / "out", model=tiny_bundle, formats=["dicom-seg"])

    assert [row["id"] for row in summary.rows][:3] == [
        "ST0__SE0__IM0_frame_001", "ST0__SE0__IM0_frame_002", "ST1__SE0__IM0",
    ]  # fmt: skip
    assert len(list((tmp_path / "out/dicom").iterdir())) == 3


def test_a_source_without_preamble_has_objects_too(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", grey())
    path.write_bytes(path.read_bytes()[132:])

    summary = predict(
        [path], tmp_path / "out", model=tiny_bundle, formats=["dicom-seg", "dicom-sr"]
    )

    assert summary.failures == []


def test_nifti_masks_have_their_geometry_in_the_affine(tmp_path: Path) -> None:
    mask = np.zeros((7, 11))
    for spacing in ((0.2, 0.1), None):
        write_nifti_mask(tmp_path / "m.nii.gz", mask, spacing)
        image = nibabel.load(tmp_path / "m.nii.gz")
        expected = (0.1, 0.2) if spacing else (1, 1)
        assert nibabel.affines.voxel_sizes(image.affine)[:2] == pytest.approx(expected)
        assert image.header.get_zooms() == pytest.approx(expected)
        assert int(image.header["sform_code"]) == (2 if spacing else 0)


@pytest.mark.parametrize(
    ("shape", "forms"),
    [((90, 60), "sq"), ((90, 60, 1), "s"), ((90, 60, 1, 3), "q"), ((90, 60), "")],
)
def test_nifti_masks_lie_over_their_nifti_image(
    tiny_bundle: Path, tmp_path: Path, shape: tuple[int, ...], forms: str
) -> None:
    rng = np.random.default_rng(0)
    turned = np.array([[0, -0.2, 0, 5], [0.3, 0, 0, -7], [0, 0, 2, 1], [0, 0, 0, 1]])
    loaded = nibabel.Nifti1Image(rng.integers(0, 255, shape, dtype=np.uint8), None)
    loaded.header.set_zooms((0.3, 0.2, 2, 1)[: len(shape)])
    loaded.header["descrip"] = b"Secret Name"
    for form in forms:
        getattr(loaded, f"set_{form}form")(turned, 1)
    nibabel.save(loaded, tmp_path / "x.nii.gz")

    predict([tmp_path / "x.nii.gz"], tmp_path / "out", model=tiny_bundle, formats=["nifti"])

    loaded = nibabel.load(tmp_path / "x.nii.gz")
    mask = nibabel.load(tmp_path / "out/nifti/x.nii.gz")
    expected = read_mask(tmp_path / "out/masks/x.png")
    assert mask.shape == shape[:3]
    assert np.array_equal(np.squeeze(mask.dataobj).T > 0, expected)
    assert np.allclose(mask.affine, loaded.affine, atol=1e-6)
    assert mask.header.get_zooms() == pytest.approx(loaded.header.get_zooms()[: len(mask.shape)])
    for form in ("sform_code", "qform_code"):
        assert mask.header[form] == loaded.header[form]
    assert b"Secret" not in mask.header.binaryblock


def test_the_commands_formats_are_those_of_the_package() -> None:
    assert FORMATS == PREDICTION_FORMATS


def test_the_frame_that_stands_for_a_loop(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    path = save_ultrasound(tmp_path / "cine.dcm", grey(4), FrameTime=50)

    summary = predict([path], tmp_path / "out", model=tiny_bundle)

    (cine,) = summary.cines
    rows = sorted(
        summary.rows, key=lambda row: (row["lesion_pixels"] > 0, row["p_malignant"]), reverse=True
    )
    assert (cine["frames"], cine["frames_per_second"], cine["predicted"]) == (4, 20, 4)
    assert cine["summary_id"] == rows[0]["id"]
    assert cine["summary_frame"] == rows[0]["frame"]
    record = json.loads((tmp_path / "out/run.json").read_text(encoding="utf-8"))
    assert record["cines"] == [cine]


def test_cropping_to_the_region_keeps_the_images_size(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    inner = regions(0.02, (10, 10, 59, 99))
    path = save_ultrasound(tmp_path / "x.dcm", grey(), SequenceOfUltrasoundRegions=inner)

    predict([path], tmp_path / "out", model=tiny_bundle, crop_region=True)

    mask = read_mask(tmp_path / "out/masks/x.png")
    alone = Predictor.load(tiny_bundle).predict(grey()[10:60, 10:100])
    assert np.array_equal(mask[10:60, 10:100], alone.mask > 0)
    assert mask.sum() == alone.mask.sum()
    assert mask.shape == read_image(tmp_path / "out/overlays/x.png").pixels[:70].shape


def test_what_cannot_be_referred_to_is_predicted_and_told(
    tiny_bundle: Path, image: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    path = save_ultrasound(tmp_path / "x.dcm", grey())
    dataset = pydicom.dcmread(path)
    del dataset.StudyInstanceUID
    dataset.save_as(path)

    summary = predict([image, path], tmp_path / "out", model=tiny_bundle, formats=["dicom-seg"])

    assert summary.predicted == 2
    messages = [failure["message"] for failure in summary.failures]
    assert "no DICOM file" in messages[0] and "lacks StudyInstanceUID" in messages[1]
    assert not (tmp_path / "out/dicom").exists()


def test_one_series_for_the_objects_of_a_series(
    tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        save_ultrasound(tmp_path / f"{name}.dcm", grey(), SeriesInstanceUID="1.2.3.4")

    predict([tmp_path], tmp_path / "out", model=tiny_bundle, formats=["dicom-seg", "dicom-sr"])

    for kind in ("seg", "sr"):
        made = [pydicom.dcmread(tmp_path / f"out/dicom/{name}_{kind}.dcm") for name in "ab"]
        assert len({found.SeriesInstanceUID for found in made}) == 1
        assert len({found.SOPInstanceUID for found in made}) == 2


def test_command(tiny_bundle: Path, save_ultrasound: Save, tmp_path: Path) -> None:
    save_ultrasound(tmp_path / "study/A/cine", grey(3), FrameTime=40)
    words = ["predict", str(tmp_path / "study"), "--model", str(tiny_bundle)]
    words += ["--format", "dicom-seg", "--fractional", "--keep-ids"]

    result = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "out")])

    assert result.exit_code == 0, result.output
    assert "cine: 3 frames, 25 frames a second" in result.output
    read = pydicom.dcmread(tmp_path / "out/dicom/cine_seg.dcm")
    assert read.SegmentationType == "FRACTIONAL"
    assert read.PatientID == "SECRET-7"
    result = CliRunner().invoke(main, [*words, "--format", "gif", "--out", str(tmp_path / "o2")])
    assert result.exit_code == 2


def test_names_are_kept_in_any_script(
    save_ultrasound: Save, tmp_path: Path, prediction: Prediction
) -> None:
    source = save_ultrasound(tmp_path / "x.dcm", grey())
    dataset = pydicom.dcmread(source)
    dataset.SpecificCharacterSet = "ISO_IR 100"
    dataset.PatientName = "Müller^Jörg"
    dataset.save_as(source)
    reference = source_reference(source, keep_ids=True)
    model = ModelIdentity("乳 bundle ü", "ab" * 32)

    segmentation_object(reference, {}, model).save_as(tmp_path / "seg.dcm")
    report_object(reference, prediction, model).save_as(tmp_path / "sr.dcm")

    for name in ("seg", "sr"):
        assert pydicom.dcmread(tmp_path / f"{name}.dcm").PatientName == "Müller^Jörg"
    assert pydicom.dcmread(tmp_path / "seg.dcm").ManufacturerModelName == "乳 bundle ü"


def test_unknown_format(tiny_bundle: Path, image: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown format gif; expected some of png, nifti"):
        predict([image], tmp_path / "out", model=tiny_bundle, formats=["gif"])
