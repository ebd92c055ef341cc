"""Fixtures that every room shares: a small phantom dataset, and the real data where it exists."""

from __future__ import annotations

import csv
import hashlib
import os
import pickle
import shutil
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from busi_monai.curation import Audit
    from busi_monai.inference import Prediction, Predictor

os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED = REPOSITORY.parent / "shared"


RELEASED = ("model.pt", "model.onnx", "run.json", "training_images.json")
"""Files of the shipped bundle that belong to its weights."""


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """``once(name, make)`` has ``make(folder)`` called once a test run, by the first worker.

    The folder's parent is there, for this name alone. What is made is not to be changed.
    """
    from filelock import FileLock

    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"

    def made(name: str, make: Callable[[Path], object]) -> Path:
        place = shared / name.replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        with FileLock(shared / f"{place.name}.lock"):
            if not (place / ".made").exists():
                make(place / name)
                (place / ".made").touch()
        return place / name

    return made


@pytest.fixture(scope="session")
def phantom_busi(once: Once) -> Path:
    """24 phantoms of 96×128 pixels in the BUSI layout, eight of each class."""
    from busi_monai.phantoms import write_phantom_dataset

    return once(
        "busi", lambda folder: write_phantom_dataset(folder, cases=24, seed=0, size=(96, 128))
    )


def _real(path: Path) -> Path:
    if not path.exists():
        pytest.skip("the real data does not lie beside this checkout")
    return path


@pytest.fixture(scope="session")
def real_busi() -> Path:
    return _real(SHARED / "data" / "Dataset_BUSI_with_GT")


@pytest.fixture(scope="session")
def real_bus_bra() -> Path:
    """BUS-BRA's official folds 1 to 4."""
    return _real(SHARED / "data" / "BUS-BRA")


@pytest.fixture(scope="session")
def real_bus_uclm() -> Path:
    return _real(SHARED / "data" / "BUS-UCLM")


@pytest.fixture(scope="session")
def real_breast() -> Path:
    return _real(SHARED / "data" / "BrEaST-Lesions-USG")


@pytest.fixture(scope="session")
def bus_bra_folds_1_and_2(real_bus_bra: Path, once: Once) -> Path:
    """The 761 images of BUS-BRA that the released weights rest on, as links, with their rows."""

    def make(folder: Path) -> None:
        with (real_bus_bra / "5-fold-cv.csv").open(encoding="utf-8", newline="") as stream:
            ids = {row["ID"] for row in csv.DictReader(stream) if row["kFold"] in {"1", "2"}}
        for part, prefix in (("Images", "bus_"), ("Masks", "mask_")):
            (folder / part).mkdir(parents=True)
            for name in (f"{prefix}{case_id.removeprefix('bus_')}.png" for case_id in ids):
                (folder / part / name).symlink_to(real_bus_bra / part / name)
        for name in ("bus_data.csv", "5-fold-cv.csv"):
            head, *rows = (real_bus_bra / name).read_text("utf-8").splitlines(keepends=True)
            kept = (row for row in rows if row.split(",")[0] in ids)
            (folder / name).write_text("".join([head, *kept]), encoding="utf-8")

    return once("BUS-BRA", make)


@pytest.fixture(scope="session")
def audit_of(once: Once) -> Callable[[Path], Audit]:
    """Audits a real dataset, each once a test run."""
    from busi_monai.curation import audit_dataset
    from busi_monai.datasets import read_dataset

    def found(dataset: Path) -> Audit:
        def make(path: Path) -> None:
            path.write_bytes(pickle.dumps(audit_dataset(read_dataset(dataset))))

        name = hashlib.sha256(os.fsencode(dataset)).hexdigest()
        return pickle.loads(once(f"audit {name}", make).read_bytes())

    return cache(found)


@pytest.fixture(scope="session")
def busi_prepared(real_busi: Path, audit_of: Callable[[Path], Audit], once: Once) -> Path:
    """BUSI by the default protocol, as for the released weights; not to be changed."""
    from busi_monai.curation import prepare_dataset

    audit = audit_of(real_busi)
    return once("real busi", lambda out: prepare_dataset(real_busi, out, audit=audit))


@pytest.fixture(scope="session")
def busi_folds(real_busi: Path, audit_of: Callable[[Path], Audit], once: Once) -> Path:
    """BUSI in five folds; not to be changed."""
    from busi_monai.curation import PrepareOptions, prepare_dataset

    audit, options = audit_of(real_busi), PrepareOptions(folds=5)
    return once("busi folds", lambda out: prepare_dataset(real_busi, out, options, audit=audit))


@pytest.fixture(scope="session")
def reference() -> Path:
    """Folder of the published id lists."""
    return _real(SHARED / "reference")


@pytest.fixture(scope="session")
def tiny_bundle(once: Once) -> Path:
    """The shipped bundle with an untrained U-Net of two thousand weights for 32×48 pixels."""
    return once("segmentation bundle ü", _make_tiny_bundle)


def _make_tiny_bundle(bundle: Path) -> None:
    import torch
    import yaml

    from busi_monai.bundle.shipped import find_bundle
    from busi_monai.settings import InferenceSettings

    shutil.copytree(find_bundle(), bundle, ignore=shutil.ignore_patterns(*RELEASED))
    network = {
        "_target_": "busi_monai.networks.MultiTaskUNet",
        "encoder": "unet",
        "encoder_options": {"widths": [4, 8, 16]},
        "head_channels": [],
        "dropout": 0.0,
    }
    for path in (bundle / "configs").glob("*.yaml"):
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "network_def" in config:
            config["network_def"] = network
            path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    inference_settings = InferenceSettings(image_size=(32, 48), tta_flip=True)
    inference_settings.save(bundle)

    from busi_monai.networks import MultiTaskUNet

    with torch.random.fork_rng():
        torch.manual_seed(1)
        untrained = MultiTaskUNet("unet", encoder_options={"widths": [4, 8, 16]}, head_channels=[])
    (bundle / "models").mkdir(exist_ok=True)
    torch.save(untrained.state_dict(), bundle / "models" / "model.pt")


TINY = """
image_size: [32, 32]
max_epochs: 2
batch_size: 6
encoder: unet
encoder_options: {widths: [4, 8]}
learning_rate: 0.01
ema_decay: 0.9
tta_flip: false
precision: fp32
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An overlay with which two epochs on the phantoms take less than a second."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


TINY_STAGES = """
pipeline: {image_size: [64, 96], tta_flip: true}
classification: {lesion_crop: {margin: 0.4, when_no_lesion: normal}, image_size: [24, 40]}
"""


@pytest.fixture(scope="session")
def tiny_stages_config(tiny_config: Path) -> Path:
    """An overlay with which two epochs of both stages take a few seconds."""
    path = tiny_config.parent / "tiny_stages.yaml"
    path.write_text(TINY + TINY_STAGES, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def phantom_prepared(phantom_busi: Path, once: Once) -> Path:
    """The phantoms prepared by the default protocol: about 18, 3 and 3 images."""
    from busi_monai.curation import prepare_dataset

    return once("phantoms", lambda folder: prepare_dataset(phantom_busi, folder))


@pytest.fixture(scope="session")
def folds(phantom_busi: Path, once: Once) -> Path:
    """The phantoms prepared with three folds of eight images."""
    from busi_monai.curation import PrepareOptions, prepare_dataset

    return once(
        "folds", lambda folder: prepare_dataset(phantom_busi, folder, PrepareOptions(folds=3))
    )


@pytest.fixture(scope="session")
def corrected_busi(phantom_busi: Path, once: Once) -> Path:
    """The phantoms, same pixels, with the masks of all 16 lesions eight rows further down."""
    from busi_monai.io.images import read_mask, write_mask

    def make(folder: Path) -> None:
        shutil.copytree(phantom_busi, folder)
        for kind in ("benign", "malignant"):
            for path in (folder / kind).glob("*_mask*.png"):
                write_mask(path, np.roll(read_mask(path), 8, axis=0))

    return once("corrected busi", make)


@pytest.fixture(scope="session")
def corrected_prepared(corrected_busi: Path, once: Once) -> Path:
    """``phantom_prepared`` with the corrected masks: the same ``sha256``."""
    from busi_monai.curation import prepare_dataset

    return once("corrected", lambda folder: prepare_dataset(corrected_busi, folder))


@pytest.fixture(scope="session")
def corrected_folds(corrected_busi: Path, once: Once) -> Path:
    """``folds`` with the corrected masks: the same ``sha256``."""
    from busi_monai.curation import PrepareOptions, prepare_dataset

    return once(
        "corrected folds",
        lambda folder: prepare_dataset(corrected_busi, folder, PrepareOptions(folds=3)),
    )


@pytest.fixture
def as_before_label_hashes(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a prepared folder, and takes out what earlier versions did not write."""
    import json

    def copy(prepared: Path) -> Path:
        folder = tmp_path / f"earlier {prepared.name}"
        shutil.copytree(prepared, folder)
        path = folder / "datalist.json"
        content = json.loads(path.read_text("utf-8"))
        del content["labels_sha256"]
        for part in ("training", "validation", "test"):
            for item in content[part]:
                del item["label_sha256"]
        path.write_text(json.dumps(content), "utf-8")
        return folder

    return copy


@pytest.fixture(scope="session")
def other_prepared(once: Once) -> Path:
    """Twelve phantoms of another seed, none of them among the others, nine of them for training."""
    from busi_monai.curation import PrepareOptions, prepare_dataset
    from busi_monai.phantoms import write_phantom_dataset

    def make(folder: Path) -> None:
        write_phantom_dataset(folder.parent / "busi", cases=12, seed=7, size=(64, 80))
        prepare_dataset(folder.parent / "busi", folder, PrepareOptions(ratios="70/15/15"))

    return once("others", make)


@pytest.fixture(scope="session")
def tiny_run(phantom_prepared: Path, tiny_config: Path, once: Once) -> Path:
    """A run of two epochs on the prepared phantoms; not to be changed."""
    from busi_monai.training import train_bundle

    def make(folder: Path) -> None:
        settings = {"device_name": "cpu"}
        train_bundle([phantom_prepared], folder, configs=[tiny_config], overrides=settings)

    return once("tiny run", make)


@pytest.fixture(scope="session")
def two_stage_run(phantom_prepared: Path, tiny_stages_config: Path, once: Once) -> Path:
    """A run of both stages, two epochs each, on the prepared phantoms; not to be changed."""
    from busi_monai.training import train_bundle

    def make(folder: Path) -> None:
        train_bundle(
            [phantom_prepared],
            folder,
            bundle="breast_ultrasound_two_stage",
            configs=[tiny_stages_config],
            overrides={"device_name": "cpu"},
        )

    return once("two stages", make)


@pytest.fixture
def save_ultrasound() -> Callable[..., Path]:
    """Write an ultrasound DICOM file, of one frame or a loop, with a patient's name in it."""

    def write(
        path: Path, pixels: np.ndarray, photometric: str = "MONOCHROME2", **tags: Any
    ) -> Path:
        from pydicom.dataset import FileDataset, FileMetaDataset
        from pydicom.uid import ExplicitVRLittleEndian, generate_uid

        colour = pixels.shape[-1] == 3
        frames = pixels.shape[0] if pixels.ndim - colour == 3 else 1
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = (
            "1.2.840.10008.5.1.4.1.1.3.1" if frames > 1 else "1.2.840.10008.5.1.4.1.1.6.1"
        )
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        dataset.SOPClassUID = meta.MediaStorageSOPClassUID
        dataset.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.PatientName, dataset.PatientID = "Secret^Name", "SECRET-7"
        dataset.PatientBirthDate, dataset.AccessionNumber = "19700102", "SECRET-ACC"
        dataset.ReferringPhysicianName, dataset.StudyID = "Secret^Doctor", "SECRET-STUDY"
        dataset.Modality, dataset.SeriesNumber, dataset.InstanceNumber = "US", 1, 1
        dataset.StudyDate, dataset.StudyTime, dataset.PatientSex = "20200304", "101112", "F"
        dataset.Rows, dataset.Columns = pixels.shape[-2 - colour : pixels.ndim - colour]
        dataset.SamplesPerPixel = 3 if colour else 1
        if colour:
            dataset.PlanarConfiguration = 0
        if frames > 1:
            dataset.NumberOfFrames = frames
        dataset.PhotometricInterpretation = photometric
        dataset.BitsAllocated = dataset.BitsStored = pixels.dtype.itemsize * 8
        dataset.HighBit, dataset.PixelRepresentation = dataset.BitsStored - 1, 0
        content = pixels.tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not hasattr(dataset, "original_encoding"):  # pydicom 2 does not ask the file's header
            dataset.is_little_endian, dataset.is_implicit_VR = True, False
        dataset.save_as(path)
        return path

    return write


@pytest.fixture(scope="session")
def released() -> Predictor:
    """The shipped bundle with its released weights."""
    from busi_monai.inference import Predictor

    return Predictor.load(device="cpu")


@pytest.fixture(scope="session")
def twenty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twenty images, of several shapes and one of them asymmetric."""
    from tests.serving.images import write_twenty

    return write_twenty(tmp_path_factory.mktemp("twenty"), tmp_path_factory.mktemp("phantoms"))


@pytest.fixture(scope="session")
def expected(released: Predictor, twenty: Path) -> dict[str, Prediction]:
    """What ``Predictor`` gives by the released weights, by file name without suffix."""
    found = {path.stem: released.predict(path) for path in sorted(twenty.iterdir())}
    assert sum(prediction.mask.any() for prediction in found.values()) >= 10
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium without a window."""
    if find_spec("playwright") is None:
        pytest.skip("playwright is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        names = ("chromium", "chromium-browser", "chrome", playwright.chromium.executable_path)
        chromium = next(filter(None, map(shutil.which, names)), None)
        if chromium is None:
            pytest.skip("no chromium is installed; Debian has one")
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def ort_web() -> Path:
    """The npm package of ONNX Runtime for browsers, fetched once into ``build``."""
    environment = {**os.environ, "npm_config_fetch_retries": "0"}
    made = subprocess.run(
        ["make", "--silent", "ort-web"],
        cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"npm does not bring onnxruntime-web: {made.stderr.strip()[-200:]}")
    return REPOSITORY / made.stdout.split()[-1]
