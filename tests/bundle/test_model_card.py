from __future__ import annotations

from pathlib import Path

from busi_monai.bundle.model_card import (
    ensemble_sections,
    replaced_sections,
    training_sections,
)
from busi_monai.bundle.shipped import find_bundle
from busi_monai.files import read_json
from busi_monai.settings import InferenceSettings

COST = {"parameters": 1_250_000, "flops": 2_500_000_000, "image_size": [64, 96]}
ITEMS = [
    {"class_label": 1, "dataset": "busi"},
    {"class_label": 2, "dataset": "bus_bra"},
    {"class_label": 2, "dataset": "busi"},
]


def test_other_sections_stay() -> None:
    card = "# Data\nold\n## Preprocessing\nold\n# License\nfree\n"
    assert replaced_sections(card, {"Data": "own", "Missing": "x"}) == (
        "# Data\n\nown\n\n# License\nfree\n"
    )


def test_a_comment_in_code_is_no_heading() -> None:
    card = "# Data\nold\n# Use\n```\n# Data\nrun it\n```\n"
    found = replaced_sections(card, {"Data": "own"})
    assert found == "# Data\n\nown\n\n# Use\n```\n# Data\nrun it\n```\n"


def test_what_a_run_is_trained_on_is_counted_by_class_and_dataset() -> None:
    settings = InferenceSettings(image_size=(64, 96))
    sections = training_sections(ITEMS, settings, COST, {"datalist_sha256": ["ab" * 32]})
    assert "3 images (1 benign, 2 malignant) of bus_bra, busi." in sections["Data"]
    assert "`abababababab…`" in sections["Data"]
    assert "64 × 96 px" in sections["Training configuration"]
    assert "1.2 million parameters, 2.5 GFLOPs" in sections["Training configuration"]


def test_a_network_without_classes_names_none() -> None:
    items = [{**item, "class_label": item["class_label"] - 1} for item in ITEMS]
    pair = ("benign", "malignant")
    sections = training_sections(items, InferenceSettings(classes=()), COST, {}, classes=pair)
    assert "Classes: none" in sections["Training configuration"]
    assert "3 images (1 benign, 2 malignant)" in sections["Data"]
    assert "that outlines the lesion. " in sections["Model overview"]


def test_a_classifier_outlines_nothing() -> None:
    settings = InferenceSettings(classes=("benign", "malignant"))
    sections = training_sections(ITEMS, settings, COST, {}, segmentation=False)
    assert "that tells benign, malignant apart. " in sections["Model overview"]


def test_an_ensemble_names_its_members() -> None:
    members = [{"name": name, "weights_sha256": name * 64} for name in "ab"]
    text = ensemble_sections(members)["Training configuration"]
    assert "2 networks" in text and "- b, weights `bbbbbbbbbbbb…`" in text


def test_a_run_does_not_state_the_figures_of_the_bundles_weights(tiny_run: Path) -> None:
    card = (tiny_run / "docs" / "README.md").read_text("utf-8")
    assert "Trained on" in card.split("# Training configuration")[0]
    assert "Nothing had been measured" in card
    metadata = read_json(tiny_run / "configs" / "metadata.json")
    shipped = read_json(find_bundle() / "configs" / "metadata.json")
    assert shipped["eval_metrics"] and not metadata["eval_metrics"]
    headings = [
        [line for line in text.splitlines() if line.startswith("# ")]
        for text in (card, (find_bundle() / "docs" / "README.md").read_text("utf-8"))
    ]
    assert headings[0] == headings[1]
