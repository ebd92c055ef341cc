"""The documents name only what exists, and all that the registries hold."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from busi_monai.bundle.shipped import find_bundle, shipped_bundles, shipped_configs
from busi_monai.cli.main import COMMANDS, main

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
DOCUMENTS = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]

FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
OPTION = re.compile(r"(?<![\w-])--[a-z][\w-]*")

# inline code of other programs
FOREIGN = ("python ", "pip ", "torchrun ", "tensorboard ", "verify_net_in_out ")


def identify(path: Path) -> str:
    return path.name


def parameters(command: click.Command) -> set[str]:
    options = {flag for p in command.params for flag in (*p.opts, *p.secondary_opts)}
    return {*options, "-h", "--help"}


def all_commands() -> dict[str, click.Command]:
    context = click.Context(main)
    found = {name: main.get_command(context, name) for name in COMMANDS}
    return {name: command for name, command in found.items() if command is not None}


def command_lines(text: str) -> Iterator[str]:
    """Yield what follows ``busi-monai`` in blocks (continuation lines joined) and inline code."""
    blocks = [block.replace("\\\n", " ") for block in FENCE.findall(text)]
    lines = [line.strip().removeprefix("$ ") for block in blocks for line in block.splitlines()]
    for line in [*lines, *INLINE.findall(FENCE.sub("", text).replace("\n", " "))]:
        if line.startswith("busi-monai "):
            yield line.removeprefix("busi-monai ").split(" #")[0].strip()


def table_keys(text: str, heading: str) -> set[str]:
    """Return the code in the first column of the tables of a section, dotted names included."""
    section = text.split(f"\n## {heading}\n")[1].split("\n## ", maxsplit=1)[0]
    first_cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return {name for cell in first_cells for name in INLINE.findall(cell)}


def anchor(heading: str) -> str:
    """Return the fragment that GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_command_lines_exist(document: Path):
    commands = all_commands()
    for line in command_lines(document.read_text("utf-8")):
        name, *words = shlex.split(line)
        if name.startswith("-"):
            continue
        assert name in commands, f"busi-monai {line}"
        options = {word.split("=")[0] for word in words if word.startswith("-")}
        assert options <= parameters(commands[name]), f"busi-monai {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_options_in_prose_and_tables_exist(document: Path):
    known = set().union(*map(parameters, all_commands().values()))
    inline = INLINE.findall(FENCE.sub("", document.read_text("utf-8")))
    ours = [code for code in inline if not code.startswith(FOREIGN)]
    named = {option for code in ours for option in OPTION.findall(code)}
    # MONAI's overrides: any key of the configuration
    overrides = {f"--{name}" for name in train_tunables()}
    assert named <= known | overrides


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_relative_links_resolve(document: Path):
    for link in LINK.findall(document.read_text("utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        target, _, fragment = link.partition("#")
        path = document.parent / target if target else document
        assert path.exists(), link
        if fragment:
            headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text("utf-8")), re.M)
            assert fragment in {anchor(heading) for heading in headings}, link


@pytest.mark.parametrize("document", DOCUMENTS, ids=identify)
def test_no_paths_of_one_machine(document: Path):
    text = document.read_text("utf-8")
    assert not re.search(r"(?<![\w/.:])/(?:home|root|tmp|work|Users)/|\b[A-Z]:\\", text)


def test_every_page_is_in_the_index():
    index = (DOCS / "README.md").read_text("utf-8")
    for page in DOCS.glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index


def test_images_are_small_and_few():
    images = list((DOCS / "images").iterdir())
    assert all(path.suffix == ".png" and path.stat().st_size <= 200_000 for path in images)
    assert len(images) <= 4


def train_tunables() -> list[str]:
    """Return the keys above the first object of ``train.yaml``."""
    path = find_bundle() / "configs" / "train.yaml"
    top = path.read_text("utf-8").split("\nsettings:\n")[0]
    return [name for name in yaml.safe_load(top) if name != "imports"]


def test_tunables_are_those_of_the_training_configuration():
    documented = table_keys((DOCS / "bundle.md").read_text("utf-8"), "Tunables")
    assert documented == set(train_tunables())


def test_tunables_have_the_defaults_that_are_stated():
    top = yaml.safe_load((find_bundle() / "configs" / "train.yaml").read_text("utf-8"))
    text = (DOCS / "bundle.md").read_text("utf-8")
    stated = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", text, re.M))
    assert len(stated) > 40
    assert {name: yaml.safe_load(value) for name, value in stated.items()} == {
        name: top[name] for name in stated
    }


def test_overlays_and_bundles_are_named():
    pages = [(DOCS / name).read_text("utf-8") for name in ("bundle.md", "systems.md")]
    documented = [table_keys(text, "Overlays") for text in pages]
    assert set().union(*documented) == set(shipped_configs())
    assert not set.intersection(*documented)
    assert all(any(name in text for text in pages) for name in shipped_bundles())


def test_figures_are_those_that_are_measured():
    from busi_monai.evaluation import evaluate_predictions

    classes = ("normal", "benign", "malignant")
    table = pd.DataFrame(
        {
            "id": list("abcdef"),
            "true_class": classes * 2,
            "predicted_class": classes * 2,
            **{f"p_{name}": np.roll([0.8, 0.1, 0.1] * 2, k) for k, name in enumerate(classes)},
            "lesion_pixels": [0, 5, 5] * 2,
            "lesion_fraction": [0, 0.1, 0.1] * 2,
            "dice": 1.0,
            "iou": 1.0,
            "mean_iou": 1.0,
            "pixel_accuracy": 1.0,
            "hd95_px": 0.0,
            "true_lesion_pixels": [0, 5, 5] * 2,
            "group": "",
            "error": "",
        }
    )
    metrics = evaluate_predictions(table, resamples=5)
    measured = {name for name, value in metrics.items() if isinstance(value, dict) and "n" in value}
    measured |= {f"per_class.<class>.{name}" for name in metrics["per_class"]["benign"]}
    text = (DOCS / "metrics.md").read_text("utf-8")
    assert table_keys(text, "Figures") == measured
    for name in metrics:
        assert name == "per_class" or f"`{name}`" in text, name


def test_audit_keys_are_those_that_are_written(phantom_busi: Path):
    from busi_monai.curation import audit_dataset
    from busi_monai.datasets import Listing, read_dataset

    listing = read_dataset(phantom_busi)
    found = audit_dataset(Listing("busi", listing.root, listing.cases[:3], [])).as_dict()
    text = (DOCS / "audit.md").read_text("utf-8")
    keys = text.split("Keys of `audit.json`:")[1]
    assert all(f"`{name}`" in keys for name in found)


def test_the_empty_mask_table_holds():
    from busi_monai.metrics import segmentation_scores

    empty, full = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    part = np.pad(np.ones((2, 2), bool), 1)
    rows = {
        "both empty": segmentation_scores(empty, empty),
        "predicted empty only (missed lesion)": segmentation_scores(empty, part),
        "true empty only (false alarm)": segmentation_scores(part, empty),
        "both full": segmentation_scores(full, full),
    }
    words = {"half of the background IoU": 12 / 16 / 2, "part of pixels that agree": 12 / 16}
    text = (DOCS / "metrics.md").read_text("utf-8")
    for name, scores in rows.items():
        row = next(line for line in text.splitlines() if line.startswith(f"| {name} |"))
        cells = [cell.strip() for cell in row.split("|")[2:-1]]
        stated = [np.nan if c == "undefined" else words.get(c) or float(c) for c in cells]
        np.testing.assert_allclose(list(scores.values()), stated)


def test_registries_are_named_in_full():
    from busi_monai.curation import PROTOCOLS
    from busi_monai.datasets import READERS
    from busi_monai.inference import EXPORT_FORMATS
    from busi_monai.networks import ENCODERS, POOLINGS
    from busi_monai.training import LOSSES

    holders = {
        "datasets.md": READERS,
        "protocols.md": PROTOCOLS,
        "networks.md": [*ENCODERS, *POOLINGS],
        "bundle.md": [*ENCODERS, *POOLINGS, *LOSSES["segmentation"], *LOSSES["classification"]],
    }
    for page, names in holders.items():
        text = (DOCS / page).read_text("utf-8")
        assert [name for name in names if f"`{name}`" not in text] == []
    predict = (DOCS / "predict.md").read_text("utf-8")
    assert all(f"`{name}`" in predict for name in (*EXPORT_FORMATS, "web"))


def test_settings_are_all_explained():
    from busi_monai.settings import InferenceSettings

    section = (DOCS / "predict.md").read_text("utf-8").split("## settings.json")[1]
    assert all(f"`{name}`" in section for name in InferenceSettings().as_dict())


def test_every_option_of_a_command_is_explained_somewhere():
    text = " ".join(path.read_text("utf-8") for path in DOCS.glob("*.md"))
    missing = {
        f"{name} {option.opts[-1]}"
        for name, command in all_commands().items()
        for option in command.params
        if isinstance(option, click.Option)
        and not any(flag in text for flag in (*option.opts, *option.secondary_opts))
    }
    assert missing == set()


def test_the_example_predicts_from_the_graph_alone(released, twenty, tmp_path):
    text = (DOCS / "predict.md").read_text("utf-8").split("\n## Exports\n")[1]
    example = text.split("```python\n")[1].split("```")[0]
    shutil.copytree(find_bundle() / "models", tmp_path / "models")
    scan = next(twenty.glob("1 malignant*"))
    shutil.copyfile(scan, tmp_path / "scan.png")
    alone = "import sys\nsys.modules |= dict.fromkeys(('busi_monai', 'monai', 'torch'))\n"
    command = [sys.executable, "-I", "-c", alone + example]
    told = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    expected = released.predict(scan)
    assert ast.literal_eval(told.stdout) == pytest.approx(expected.probabilities, abs=1e-3)
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert set(np.unique(mask)) == {0, 255}
    assert np.mean((mask > 0) != (expected.mask > 0)) < 1e-3
