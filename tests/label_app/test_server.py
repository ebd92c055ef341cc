"""A real MONAI Label server on phantoms, from the first request to a dataset of labels."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-env"
)

from monailabel.client.client import MONAILabelClient, MONAILabelClientException

from busi_monai.curation import PrepareOptions, prepare_dataset
from busi_monai.inference import Predictor
from busi_monai.io.images import read_mask
from busi_monai.phantoms import write_phantom_dataset
from tests.label_app.conftest import lesion_of
from tests.label_app.server import PATIENCE, Server, free_port

pytestmark = pytest.mark.slow

MODEL = "breast_ultrasound"
CLASSES = ("normal", "benign", "malignant")
COMMAND = [sys.executable, "-c", "from busi_monai.cli.main import main; main()"]


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve phantoms that the served run has not seen."""
    return write_phantom_dataset(
        tmp_path_factory.mktemp("unseen") / "busi", cases=12, seed=11, size=(96, 128)
    )


@pytest.fixture(scope="module")
def studies(phantoms: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The studies folder: phantoms in every format, and a broken one."""
    folder = tmp_path_factory.mktemp("label") / "Studies é (1)"
    folder.mkdir()
    for path in sorted(phantoms.rglob("*.png")):
        if "_mask" not in path.stem:
            (folder / path.name).write_bytes(path.read_bytes())
    grey = np.array(Image.open(folder / "benign (1).png").convert("L"))[:70, :110]
    Image.fromarray(grey).save(folder / "scan.jpeg", quality=90)
    affine = np.diag([0.2, -0.3, 1, 1])
    nibabel.save(nibabel.Nifti1Image(grey.T[..., None], affine), folder / "volume.nii.gz")
    nibabel.save(nibabel.Nifti1Image(grey.T, affine), folder / "plane.nii.gz")
    whole = (folder / "benign (1).png").read_bytes()
    (folder / "broken.png").write_bytes(whole[: len(whole) // 2])
    return folder


@pytest.fixture(scope="module")
def app_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app") / "app"


@pytest.fixture(scope="module")
def server(
    studies: Path,
    app_folder: Path,
    tiny_run: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Server]:
    port = free_port()
    words = [*COMMAND, "label-app", "--out", app_folder, "--studies", studies]
    words += ["--model", tiny_run, "--device", "cpu", "--port", port]
    log = tmp_path_factory.mktemp("log") / "server.log"
    running = Server([str(word) for word in words], f"http://127.0.0.1:{port}", log)
    try:
        running.wait()
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def predictor(tiny_run: Path) -> Predictor:
    return Predictor.load(tiny_run, "cpu")


def drawn(file: str | Path) -> np.ndarray:
    """Return a mask as (H, W)."""
    if str(file).endswith((".nii", ".nii.gz")):
        return np.asarray(nibabel.load(file).dataobj).squeeze().T
    if str(file).endswith(".nrrd"):
        import nrrd

        return nrrd.read(str(file))[0].squeeze().T
    return np.array(Image.open(file))


@pytest.mark.parametrize(
    ("file", "extension", "written"),
    [
        ("malignant (1).png", None, ".png"),
        ("scan.jpeg", None, ".png"),
        ("volume.nii.gz", None, ".nii.gz"),
        ("plane.nii.gz", None, ".nii.gz"),
        ("malignant (1).png", ".nrrd", ".nrrd"),
        ("scan.jpeg", ".nrrd", ".nrrd"),
        ("volume.nii.gz", ".nrrd", ".nrrd"),
    ],
)
def test_proposals_are_the_predictors(
    server: Server,
    studies: Path,
    predictor: Predictor,
    tmp_path: Path,
    file: str,
    extension: str | None,
    written: str,
) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    asked = {"result_extension": extension} if extension else {}
    mask, told = client.infer(MODEL, file.removesuffix(".gz").rpartition(".")[0], asked)
    assert_same(mask, told, predictor, studies / file)
    assert mask.endswith(written)
    if file.endswith(".gz") and written == ".nii.gz":
        there, here = nibabel.load(studies / file), nibabel.load(mask)
        assert np.allclose(np.abs(here.affine[:2, :2]), np.abs(there.affine[:2, :2]))


def assert_same(mask: str, told: dict[str, Any], predictor: Predictor, loaded: Path) -> None:
    expected = predictor.predict(loaded)
    assert np.array_equal(drawn(mask), expected.mask)
    assert told["predicted_class"] == expected.predicted_class
    assert told["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    assert told["uncertainty"]["score"] == pytest.approx(
        predictor.uncertainty(loaded).score, abs=1e-5
    )


def test_a_dicom_file_sent_along_is_predicted(
    server: Server,
    predictor: Predictor,
    studies: Path,
    save_ultrasound: Callable[..., Path],
    tmp_path: Path,
) -> None:
    grey = np.array(Image.open(studies / "malignant (2).png").convert("L"))[:64, :101]
    path = save_ultrasound(tmp_path / "IM0001.dcm", grey)
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    mask, told = client.infer(MODEL, "", {}, file=str(path))
    assert mask.endswith(".nii.gz")
    assert_same(mask, told, predictor, path)
    # as an image of the datastore it comes back as Slicer asks for it, too
    assert client.upload_image(str(path), "IM0001")["image"] == "IM0001"
    for extension in (".nrrd", ".nii.gz"):
        mask, told = client.infer(MODEL, "IM0001", {"result_extension": extension})
        assert_same(mask, told, predictor, path)
    log = server.log.read_text("utf-8", errors="replace")
    assert "Secret" not in log and "SECRET" not in log


def test_a_frame_of_a_loop_is_predicted(
    server: Server,
    predictor: Predictor,
    studies: Path,
    save_ultrasound: Callable[..., Path],
    tmp_path: Path,
) -> None:
    grey = np.array(Image.open(studies / "malignant (3).png").convert("L"))[:64, :101]
    loop = np.stack([grey, grey[::-1], 255 - grey])
    path = save_ultrasound(tmp_path / "loop.dcm", loop)
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path))
    for number in (1, 3):
        mask, told = client.infer(MODEL, "", {"frame": number}, file=str(path))
        expected = predictor.predict(loop[number - 1])
        assert np.array_equal(drawn(mask), expected.mask)
        assert told["probabilities"] == pytest.approx(expected.probabilities, abs=1e-5)
    with pytest.raises(MONAILabelClientException) as raised:
        client.infer(MODEL, "", {"frame": 4}, file=str(path))
    assert "Status: 400" in raised.value.msg and "no frame 4 among 3" in raised.value.msg


def test_all_images_in_one_go(server: Server, predictor: Predictor, studies: Path) -> None:
    server.json("POST", f"/batch/infer/{MODEL}?images=unlabeled", {"label_tag": "proposed"})
    task = server.finished("/batch/infer/")
    assert task["status"] == "DONE", "\n".join(task["details"])
    for image in ("benign (3)", "scan"):
        status, content = server.ask("GET", f"/datastore/label?label={image}&tag=proposed")
        assert status == 200
        mask = np.array(Image.open(io.BytesIO(content)))
        loaded = next(studies.glob(f"{image}.*"))
        assert np.array_equal(mask, predictor.predict(loaded).mask)


def test_from_labels_to_another_model_and_a_dataset(
    server: Server,
    phantoms: Path,
    studies: Path,
    app_folder: Path,
    predictor: Predictor,
    tmp_path: Path,
) -> None:
    client = MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="anna")
    images = [f"{name} ({number})" for name in CLASSES for number in range(1, 5)]
    proposal, before = client.infer(MODEL, "benign (1)", {})
    assert proposal

    # mask and class are saved and read back
    for image in images:
        name = image.split(maxsplit=1)[0]
        Image.fromarray(lesion_of(phantoms, image) * 255).save(tmp_path / "mask.png")
        client.save_label(image, str(tmp_path / "mask.png"), params={"class": name})
    again = client.download_label("malignant (1)", "final")
    assert np.array_equal(drawn(again) > 0, lesion_of(phantoms, "malignant (1)") > 0)
    info = server.json("GET", "/datastore/label/info?label=benign (1)&tag=final")
    assert (info["class"], info["client_id"]) == ("benign", "anna")
    assert info["served"]["proposed_by"]["predicted_class"] == before["predicted_class"]

    # training, in a process of its own, to its end; meanwhile a second one is refused
    client.train_start(MODEL, {"max_epochs": 1, "batch_size": 4, "val_split": 0.25})
    task = server.finished("/train/")
    assert task["status"] == "DONE", "\n".join(task["details"])

    # the next proposal is the new model's
    served = json.loads((app_folder / "model" / "served.json").read_text("utf-8"))
    trained = Predictor.load(served["run"], "cpu")
    assert trained.provenance()["weights_sha256"] != predictor.provenance()["weights_sha256"]
    mask, told = client.infer(MODEL, "malignant (2)", {})
    assert_same(mask, told, trained, studies / "malignant (2).png")
    assert told["served"]["weights_sha256"] == served["weights_sha256"]
    assert (served["training"], served["validation"]) == (9, 3)

    # scoring, in a process of its own as well
    server.json("POST", "/scoring/uncertainty")
    task = server.finished("/scoring/")
    assert task["status"] == "DONE", "\n".join(task["details"])
    measured = json.loads((app_folder / "model" / "uncertainties.json").read_text("utf-8"))[
        "images"
    ]
    assert set(images) < set(measured) and "error" in measured["broken"]

    # what was submitted becomes a dataset
    words = [*COMMAND, "label-import", str(studies), "--out", str(tmp_path / "labelled")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stderr
    assert "12 labels (normal 4, benign 4, malignant 4), 0 left out" in done.stdout
    summary = prepare_dataset(
        tmp_path / "labelled", tmp_path / "prepared", PrepareOptions(ratios="70/30/0")
    )
    item = next(item for item in summary.datalist.records() if item["id"] == "benign (1)")
    assert item["meta"]["annotator"] == "anna"
    assert item["meta"]["model"] == predictor.provenance()["weights_sha256"][:12]
    stored = read_mask(tmp_path / "prepared" / item["label"])
    assert np.array_equal(stored, lesion_of(phantoms, "benign (1)") > 0)
