"""REST answers what the predictor predicts, and tells every problem the same way."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient

from busi_monai.errors import InputError
from busi_monai.evaluation import read_predictions
from busi_monai.inference import Predictor
from busi_monai.io.image_files import ImageBytes
from busi_monai.io.images import read_mask
from busi_monai.outputs import output_folder
from busi_monai.serving.application import application
from busi_monai.serving.keeping import Keeper
from busi_monai.serving.limits import Limits
from busi_monai.serving.service import PredictionService
from busi_monai.settings import MalignancyThreshold


def sent(client, *files, url="/v1/predict", **options):
    return client.post(url, files=[("file", file) for file in files], **options)


def mask_of(entry) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(entry["mask"]))))


def assert_problem(response, status: int, code: str) -> dict:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "file"}
    assert error["code"] == code
    assert len(error["message"]) > 10
    return error


def test_the_answer_is_what_the_predictor_gives(client, predictor, png):
    (entry,) = sent(client, ("Bild (1) ä.png", png), url="/v1/predict?mask=1").json()
    expected = predictor.predict(ImageBytes(png))
    mask = mask_of(entry)
    assert mask.shape == (70, 110) and set(np.unique(mask)) <= {0, 255}
    assert np.array_equal(mask > 0, expected.mask > 0)
    assert expected.mask.any() and not expected.mask.all()
    assert entry["id"] == "Bild (1) ä"
    assert entry["predicted_class"] == expected.predicted_class
    assert list(entry["probabilities"]) == ["normal", "benign", "malignant"]
    for name, probability in expected.probabilities.items():
        assert entry["probabilities"][name] == pytest.approx(probability, abs=1e-5)
    lesion = entry["lesion"]
    assert lesion["pixels"] == expected.lesion_pixels
    assert lesion["box"] == list(expected.box)
    assert lesion["mm2"] is None and lesion["diameters_mm"] is None
    assert "no_spacing" in [warned["code"] for warned in entry["warnings"]]
    (without,) = sent(client, ("a.png", png)).json()
    assert "mask" not in without


def test_images_that_are_not_begun_in_time_are_told(rest, png, monkeypatch):
    ticks = itertools.count(0, 0.2)  # seconds, two looks at the clock for each image
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("busi_monai.serving.service.time", clock)
    response = sent(rest(Limits(per_minute=0, seconds=1)), *[(f"{n}.png", png) for n in range(4)])
    assert response.status_code == 200
    codes = [entry.get("error", {}).get("code") for entry in response.json()]
    assert codes == [None, None, "timed_out", "timed_out"]


@pytest.mark.parametrize("format", ["PNG", "BMP", "TIFF"])
def test_the_same_pixels_in_any_format_give_the_same_answer(client, predictor, pixels, format):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format)
    (entry,) = sent(client, ("image.txt", stream.getvalue())).json()
    expected = predictor.predict(pixels)
    assert entry["probabilities"]["malignant"] == pytest.approx(
        expected.probabilities["malignant"], abs=1e-5
    )


def test_a_nifti_file_with_spacing_is_measured_in_millimetres(client, predictor, pixels):
    image = nibabel.Nifti1Image(np.ascontiguousarray(pixels.T), np.eye(4))
    image.header.set_zooms((0.1, 0.2))
    image.header.set_xyzt_units("mm")
    (entry,) = sent(client, ("no suffix", image.to_bytes())).json()
    assert entry["spacing_mm"] == pytest.approx([0.2, 0.1])
    assert entry["lesion"]["mm2"] == pytest.approx(entry["lesion"]["pixels"] * 0.02)
    assert len(entry["lesion"]["diameters_mm"]) == 2


def test_each_frame_of_a_dicom_loop_has_an_entry(
    client, predictor, pixels, save_ultrasound, tmp_path
):
    loop = np.stack([pixels, pixels[::-1], 255 - pixels])
    path = save_ultrasound(tmp_path / "loop.dcm", loop, PixelSpacing=[0.2, 0.2], FrameTime=40)
    entries = sent(client, ("cine.dcm", path.read_bytes()), url="/v1/predict?mask=1").json()
    assert [entry["id"] for entry in entries] == [f"cine_frame_00{n}" for n in (1, 2, 3)]
    assert [entry["frame"] for entry in entries] == [1, 2, 3]
    for entry, frame in zip(entries, loop, strict=True):
        assert np.array_equal(mask_of(entry) > 0, predictor.predict(frame).mask > 0)
    assert "Secret" not in json.dumps(entries)


def test_a_long_loop_is_thinned_out_with_a_warning(rest, pixels, save_ultrasound, tmp_path):
    path = save_ultrasound(tmp_path / "loop.dcm", np.stack([pixels] * 10))
    client = rest(Limits(per_minute=0, max_frames=4))
    entries = sent(client, ("cine.dcm", path.read_bytes())).json()
    assert [entry["frame"] for entry in entries] == [1, 3, 6, 8]
    (warned,) = [w for w in entries[0]["warnings"] if w["code"] == "frames_left_out"]
    assert "of 10 frames 4" in warned["message"]


def test_a_bad_file_does_not_stop_the_others(client, png):
    response = sent(client, ("bad.png", png[:300]), ("good.png", png), ("text.png", b"hello"))
    assert response.status_code == 200
    bad, good, text = response.json()
    assert bad["error"]["code"] == "unreadable" and bad["error"]["file"] == "bad.png"
    assert "truncated" in bad["error"]["message"]
    assert good["predicted_class"]
    assert "not an image" in text["error"]["message"]


def test_only_bad_files_are_no_success(client):
    response = sent(client, ("a.png", b"hello"), ("b.png", b""))
    error = assert_problem(response, 422, "unreadable")
    assert error["file"] == "a.png" and "none of 2" in error["message"]
    assert [entry["id"] for entry in response.json()["entries"]] == ["a", "b"]


def test_files_of_one_name_get_ids_that_differ(client, png):
    entries = sent(client, ("a.png", png), ("../x/a.png", png), ("A.bmp", png)).json()
    assert [entry["id"] for entry in entries] == ["a", "a-2", "A-3"]


@pytest.mark.parametrize(
    "request_",
    [
        {"json": {"file": "a"}},
        {"content": b"", "headers": {"content-type": "multipart/form-data"}},
        {"content": b"xx", "headers": {"content-type": "multipart/form-data; boundary=y"}},
        {"data": {"file": "text"}, "files": {"other": b"x"}},
        {"files": {"other": b"x"}},
    ],
)
def test_a_form_without_file_is_explained(client, request_):
    response = client.post("/v1/predict", **request_)
    assert response.status_code == 422
    assert "multipart/form-data" in response.json()["error"]["message"]


def test_too_many_files_are_refused(rest, png):
    response = sent(rest(Limits(max_files=2)), *[("a.png", png)] * 3)
    assert "Maximum number of files is 2" in assert_problem(response, 422, "bad_form")["message"]


def test_too_many_pixels_are_refused_before_they_are_decoded(rest):
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    response = sent(rest(Limits(max_pixels=1_000_000)), ("bomb.png", bomb.getvalue()))
    assert "1,000,000" in assert_problem(response, 422, "unreadable")["message"]


@pytest.mark.parametrize("stated", [True, False])
def test_too_large_a_body_is_refused(rest, stated):
    client = rest(Limits(max_bytes=10_000))
    body = b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n\r\n" + b"a" * 20_000
    headers = {"content-type": "multipart/form-data; boundary=x"}
    content = body if stated else iter([body[:5000], body[5000:], b"\r\n--x--\r\n"])
    response = client.post("/v1/predict", content=content, headers=headers)
    assert_problem(response, 413, "too_large")


def test_unknown_addresses_and_methods_are_told_as_json(client):
    assert_problem(client.get("/v1/nothing"), 404, "not_found")
    assert_problem(client.get("/nothing"), 404, "not_found")
    assert_problem(client.get("/v1/predict"), 405, "method_not_allowed")
    assert_problem(
        client.post("/v1/predict?mask=perhaps", files={"file": b""}), 422, "bad_parameter"
    )


def test_an_error_of_ours_is_told_without_its_words(client, png, monkeypatch):
    def broken(self, loaded):
        raise RuntimeError("Secret")

    monkeypatch.setattr(Predictor, "predict", broken)
    response = sent(client, ("a.png", png))
    assert_problem(response, 500, "internal")
    assert "Secret" not in response.text


def test_the_model_tells_who_it_is(client, predictor):
    told = client.get("/v1/model").json()
    assert told["classes"] == ["normal", "benign", "malignant"]
    assert told["weights_sha256"] == predictor.identity().weights_sha256
    assert told["limits"]["max_frames"] == 64
    assert "research use only" in told["notice"]
    assert str(predictor.bundle) not in json.dumps(told)


def test_the_operating_point_of_a_request_decides(tiny_bundle, rest, tmp_path, png, monkeypatch):
    bundle = Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))
    settings = Predictor.load(bundle, "cpu").settings
    point = {"sensitivity": 1, "specificity": 0, "ppv": None, "npv": None, "prevalence": 0.1}
    point |= {"missed": 0, "positives": 1, "negatives": 1}
    points = {
        "all": MalignancyThreshold(threshold=0.0, **point),
        "none": MalignancyThreshold(threshold=1.0, **point),
    }
    replace(settings, operating_points=points).save(bundle)
    service = PredictionService(Predictor.load(bundle, "cpu"), Limits(per_minute=0))
    with TestClient(application(service), base_url="http://localhost") as client:
        found = {
            name: sent(client, ("a.png", png), url=f"/v1/predict?operating_point={name}").json()[0]
            for name in points
        }
        assert found["all"]["predicted_class"] == "malignant"
        assert found["none"]["predicted_class"] != "malignant"
        assert found["all"]["probabilities"] == found["none"]["probabilities"]
        response = sent(client, ("a.png", png), url="/v1/predict?operating_point=other")
        message = assert_problem(response, 422, "unknown_operating_point")["message"]
        assert "all, none" in message
    networks = {id(service.predictor_at(name).network) for name in points}
    assert networks == {id(service.predictor.network)}


def test_the_description_loads_nothing_from_elsewhere(client):
    told = client.get("/v1")
    assert "<code>POST /v1/predict</code>" in told.text
    assert "src=" not in told.text and "http" not in told.text.lower().replace("http-equiv", "")
    assert "default-src 'none'" in told.headers["content-security-policy"]
    described = client.get("/openapi.json").json()
    assert set(described["paths"]) == {"/v1/predict", "/v1/health", "/v1/model"}
    assert client.get("/docs").status_code == 404


def test_every_answer_has_the_security_headers(client, png):
    answers = [client.get("/v1/health"), client.get("/none"), sent(client, ("a.png", png))]
    answers.append(client.get("/v1/health", headers={"host": "evil.example"}))
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-frame-options"] == "DENY"
        assert "set-cookie" not in answer.headers
        assert "access-control-allow-origin" not in answer.headers
    assert answers[0].headers["cache-control"] == "no-store"


def test_kept_predictions_have_names_of_the_servers_own(rest, predictor, png, tmp_path):
    folder = tmp_path / "kept"
    classes = predictor.settings.classes
    client = rest(keeper=Keeper(folder, classes, {"a": 1}))
    sent(client, ("../../Secret^Name.png", png), ("b.png", b"nothing"))
    client = rest(keeper=Keeper(folder, classes, {"a": 2}))
    sent(client, ("c.png", png))
    table = read_predictions(folder)
    assert len(table) == 2 and table["id"].is_unique
    assert "Secret" not in (folder / "predictions.csv").read_text()
    expected = predictor.predict(ImageBytes(png)).mask > 0
    for row in table.to_dict("records"):
        assert np.array_equal(read_mask(folder / "masks" / f"{row['id']}.png"), expected)
    found = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert len(found) == 1 + 3 + 2
    assert json.loads((folder / "run.json").read_text()) == {"a": 1}


def test_kept_predictions_grow_in_no_folder_of_another_command(tmp_path):
    with output_folder(tmp_path / "out", "predict") as stage:
        Keeper(stage, ("benign",), {})
    with pytest.raises(InputError, match=r"made by busi-monai predict.*another folder"):
        Keeper(tmp_path / "out", ("benign",), {})


def test_a_form_in_no_encoding_is_refused(client):
    for charset in ("undefined", "rot13", "no-such"):
        kind = f"multipart/form-data; boundary=b; charset={charset}"
        body = (
            b'--b\r\nContent-Disposition: form-data; name="file"; filename="\xff"\r\n\r\nx\r\n--b--'
        )
        response = client.post("/v1/predict", content=body, headers={"content-type": kind})
        assert response.status_code == 422, charset


def test_a_misspelt_parameter_is_not_passed_over(client, png):
    response = sent(client, ("a.png", png), url="/v1/predict?operating_pont=sensitivity_95")
    assert response.status_code == 422
    assert "unknown 'operating_pont'; there are: mask" in response.json()["error"]["message"]
