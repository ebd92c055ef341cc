"""The app inside MONAI Label's own web application, without a server process."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip(
    "monailabel", reason="MONAI Label has an environment of its own: make label-env"
)

from fastapi.testclient import TestClient
from monailabel.config import settings
from monailabel.interfaces.utils.app import app_instance, clear_cache

from busi_monai.inference import Predictor
from busi_monai.label_app.app_folder import write_app_folder

MODEL = "/infer/breast_ultrasound"
Put = Callable[..., Any]


@pytest.fixture
def client(
    studies: Path, tiny_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    (studies / "broken.png").write_bytes((studies / "benign (1).png").read_bytes()[:500])
    app = write_app_folder(tmp_path / "app", tiny_bundle)
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_DIR", str(app))
    monkeypatch.setattr(settings, "MONAI_LABEL_STUDIES", str(studies))
    monkeypatch.setattr(settings, "MONAI_LABEL_APP_CONF", {"device": "cpu"})
    monkeypatch.setattr(settings, "MONAI_LABEL_DATASTORE_AUTO_RELOAD", False)
    clear_cache()
    from monailabel.app import app as web

    with TestClient(web) as connected:
        yield connected
    clear_cache()


@pytest.fixture
def put(client: TestClient) -> Put:
    """Submit a label by REST and return the answer."""

    def send(
        image: str, mask: np.ndarray, name: str = "m.png", tag: str = "final", **params: Any
    ) -> Any:
        buffer = io.BytesIO()
        Image.fromarray(mask).save(buffer, format="PNG")
        return client.put(
            "/datastore/label",
            params={"image": image, "tag": tag},
            data={"params": json.dumps(params)},
            files={"label": (name, buffer.getvalue())},
        )

    return send


def info_of(client: TestClient, label: str) -> dict[str, Any]:
    answer = client.get("/datastore/label/info", params={"label": label, "tag": "final"})
    return dict(answer.json())


def test_info_tells_what_there_is(client: TestClient) -> None:
    info = client.get("/info/").json()
    assert set(info["models"]) == set(info["trainers"]) == {"breast_ultrasound"}
    assert set(info["strategies"]) == {"random", "uncertain", "diverse"}
    assert set(info["scoring"]) == {"uncertainty", "agreement"}
    assert info["datastore"]["total"] == 13


def test_a_proposal_is_the_predictors(client: TestClient, tiny_bundle: Path, studies: Path) -> None:
    predictor = Predictor.load(tiny_bundle, "cpu")
    expected = predictor.predict(studies / "benign (1).png")
    image = {"image": "benign (1)"}
    mask = client.post(MODEL, params={**image, "output": "image"})
    assert mask.headers["content-type"] == "image/png"
    assert np.array_equal(np.array(Image.open(io.BytesIO(mask.content))), expected.mask)
    told = client.post(MODEL, params={**image, "output": "json"}).json()
    assert told["probabilities"] == pytest.approx(expected.probabilities, abs=1e-6)
    assert told["predicted_class"] == expected.predicted_class
    assert told["uncertainty"]["score"] == pytest.approx(
        predictor.uncertainty(studies / "benign (1).png").score
    )
    assert told["served"]["weights_sha256"] == predictor.provenance()["weights_sha256"]


def test_uncertainty_can_be_left_out(client: TestClient) -> None:
    told = client.post(
        MODEL,
        params={"image": "benign (1)", "output": "json"},
        data={"params": json.dumps({"uncertainty": False})},
    ).json()
    assert told["uncertainty"] is None and told["probabilities"]


@pytest.mark.parametrize(
    ("image", "status", "told"),
    [("broken", 400, "damaged or truncated"), ("nobody", 404, "no such image")],
)
def test_a_image_that_cannot_be_read_is_the_callers_error(
    client: TestClient, image: str, status: int, told: str
) -> None:
    answer = client.post(MODEL, params={"image": image, "output": "json"})
    assert answer.status_code == status and told in answer.json()["detail"]


def test_a_class_survives_a_stale_rewrite_of_the_datastore(
    client: TestClient, put: Put, truth_of: Callable[[str], np.ndarray]
) -> None:
    put("benign (1)", truth_of("benign (1)"), **{"class": "benign", "client_id": "anna"})
    store = app_instance().datastore()
    store._datastore.objects["benign (1)"].labels["final"].info = {"ts": 1}
    store._update_datastore_file()
    info = info_of(client, "benign (1)")
    assert info["class"] == "benign" and info["client_id"] == "anna"


def test_a_class_can_be_changed_later(
    client: TestClient, put: Put, truth_of: Callable[[str], np.ndarray]
) -> None:
    put("benign (1)", truth_of("benign (1)"), **{"class": "benign"})
    where = {"label": "benign (1)", "tag": "final"}
    changed = client.put(
        "/datastore/label/info", params=where, data={"info": '{"class": "malignant"}'}
    )
    assert changed.status_code == 200
    assert info_of(client, "benign (1)")["class"] == "malignant"


def test_a_misspelt_class_is_refused_at_once(
    client: TestClient, put: Put, truth_of: Callable[[str], np.ndarray]
) -> None:
    answer = put("benign (1)", truth_of("benign (1)"), **{"class": "bening"})
    assert answer.status_code == 400 and "expected normal, benign" in answer.json()["detail"]
    put("benign (1)", truth_of("benign (1)"), **{"class": "benign"})
    where = {"label": "benign (1)", "tag": "final"}
    changed = client.put("/datastore/label/info", params=where, data={"info": '{"class": "x"}'})
    assert changed.status_code == 400
    assert info_of(client, "benign (1)")["class"] == "benign"


def test_a_label_keeps_which_weights_had_proposed_what(
    client: TestClient, put: Put, tiny_bundle: Path, truth_of: Callable[[str], np.ndarray]
) -> None:
    proposal = client.post(MODEL, params={"image": "benign (2)", "output": "json"}).json()
    put("benign (2)", truth_of("benign (2)"), **{"class": "benign"})
    put("benign (3)", truth_of("benign (3)"), **{"class": "benign"})
    served = info_of(client, "benign (2)")["served"]
    assert served["run"] == tiny_bundle.name
    assert served["proposed_by"]["predicted_class"] == proposal["predicted_class"]
    assert "proposed_by" not in info_of(client, "benign (3)")["served"]


def test_labels_in_formats_that_blur_are_refused(
    put: Put, truth_of: Callable[[str], np.ndarray]
) -> None:
    answer = put("benign (1)", truth_of("benign (1)"), name="m.jpg")
    assert answer.status_code == 400 and "edge" in answer.json()["detail"]


@pytest.mark.parametrize("tag", ["../outside", "a/b", ".hidden"])
def test_a_tag_is_no_path(
    put: Put, studies: Path, truth_of: Callable[[str], np.ndarray], tag: str
) -> None:
    assert put("benign (1)", truth_of("benign (1)"), tag=tag).status_code == 400
    assert not list(studies.parent.glob("outside*")) and not (studies / "outside").exists()


@pytest.mark.parametrize("strategy", ["random", "uncertain", "diverse"])
def test_no_image_is_handed_to_two_annotators(client: TestClient, strategy: str) -> None:
    handed = [
        client.post(f"/activelearning/{strategy}", json={"client_id": who}).json()["id"]
        for who in ("anna", "bert", "anna", "bert")
    ]
    other = client.post("/activelearning/random", json={"client_id": "carla"}).json()["id"]
    assert len({*handed, other}) == 5


def test_an_annotator_gets_an_unfinished_image_again_when_nothing_else_is_left(
    client: TestClient,
) -> None:
    def ask(who: str) -> str | None:
        return client.post("/activelearning/random", json={"client_id": who}).json().get("id")

    client.post("/scoring/uncertainty", params={"run_sync": True})  # finds the broken image
    first = ask("anna")
    others = [ask("bert") for _ in range(11)]
    assert len({first, *others}) == 12 and "broken" not in {first, *others}
    assert ask("anna") == first
    assert ask("carla") is None


def test_the_most_uncertain_image_comes_first(
    client: TestClient, tiny_bundle: Path, studies: Path
) -> None:
    predictor = Predictor.load(tiny_bundle, "cpu")
    scores = {
        path.stem: predictor.uncertainty(path).score
        for path in studies.glob("*.png")
        if path.stem != "broken"
    }
    ranked = sorted(scores, key=lambda name: -scores[name])
    for expected in ranked[:3]:
        answer = client.post("/activelearning/uncertain", json={"client_id": "anna"}).json()
        assert answer["weight"] == pytest.approx(scores[expected], abs=1e-6)


def test_scoring_tells_how_far_the_model_agrees(
    client: TestClient, put: Put, truth_of: Callable[[str], np.ndarray]
) -> None:
    put("benign (1)", truth_of("benign (1)"), **{"class": "benign"})
    told = client.post("/scoring/agreement", params={"run_sync": True}).json()
    assert told["labels"] == 1 and 0 <= told["lesion_dice"] <= 1 and told["accuracy"] in {0, 1}
    told = client.post("/scoring/uncertainty", params={"run_sync": True}).json()
    assert told["measured"] == 12 and list(told["unreadable"]) == ["broken"]


def test_many_images_in_one_go_past_a_bad_one(client: TestClient, studies: Path) -> None:
    done = client.post(
        "/batch/infer/breast_ultrasound",
        params={"images": "unlabeled", "run_sync": True},
        json={"device": "cpu"},
    ).json()
    assert len(done) == 13 and "damaged" in done["broken"]["error"]
    assert len(list((studies / "labels" / "original").glob("*.png"))) == 12


def test_a_mask_beside_its_image_is_no_image(
    studies: Path, client: TestClient, truth_of: Callable[[str], np.ndarray]
) -> None:
    Image.fromarray(truth_of("benign (1)")).save(studies / "benign (1)_mask.png")
    Image.fromarray(truth_of("benign (1)")).save(studies / "UPPER.PNG")
    store = app_instance().datastore()
    store.refresh()
    assert "benign (1)_mask" not in store.list_images()
    assert "UPPER" in store.list_images()
