"""The main job with the real commands: audit, prepare, train, evaluate, predict.

The last predictions are those of the released weights, which have seen real ultrasound only.

On phantoms, or on a dataset of your own: ``python scripts/demo.py --out demo --data DATASET``.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import subprocess
import sys
import time
from pathlib import Path

from busi_monai.threads import prepare_threads

prepare_threads()  # before torch is imported

from busi_monai.datasets import natural_key

SHOWN_PER_FOLDER = 4
PHANTOMS = 240
ALLOWANCE = 1.3
"""Time of a whole training by that of its steps: augmentation, validation, start."""


def main() -> None:
    """Run the commands one after the other, and show what they wrote."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to make")
    parser.add_argument("--data", type=Path, help="a dataset; by default phantoms are made")
    parser.add_argument("--config", default="demo", help="configuration overlay to train")
    options = parser.parse_args()
    out: Path = options.out
    started = time.time()
    data = options.data or out / "phantoms"
    if options.data is None:
        print_estimate(PHANTOMS * 4 // 5, options.config)
        run("phantom", data, "--cases", PHANTOMS, "--seed", 0, "--defects", "--overwrite")
    run("audit", data, "--out", out / "audit", "--overwrite", tolerated=(0, 1))
    run("prepare", data, "--out", out / "prepared", "--overwrite", tolerated=(0, 1))
    run("verify", out / "prepared")
    if options.data is not None:
        datalist = json.loads((out / "prepared" / "datalist.json").read_text(encoding="utf-8"))
        print_estimate(len(datalist["training"]), options.config)
    keep_run(out / "run")
    run("train", out / "prepared", "--out", out / "run", "--config", options.config)
    run("evaluate", out / "run", out / "prepared", "--out", out / "evaluation", "--overwrite")
    images = test_images(out / "prepared", 6)
    run("predict", *images, "--model", out / "run", "--out", out / "predictions", "--overwrite")
    run("predict", *images, "--out", out / "predictions_released", "--overwrite")
    print_tree(out)
    print(f"\n{time.time() - started:.0f} s in all. For research use only; not a medical device.")


def print_estimate(images: int, config_name: str) -> None:
    """Time a training step on this machine, and say how long training on the images will take."""
    from network_steps import configured, make_steps, median_seconds

    from busi_monai.devices import choose_device, choose_precision

    device = choose_device()
    if device.type != "cpu":
        return
    config = configured(config_name)
    precision = choose_precision(config["precision"], device)
    seconds = median_seconds(make_steps(config, precision.name)[0], calls=3)
    steps = config["max_epochs"] * math.ceil(images / config["batch_size"])
    minutes = ALLOWANCE * steps * seconds / 60
    print(f"Training will take about {minutes:.1f} minutes, and the rest one or two:")
    print(f"{steps} steps of {seconds:.2f} s, measured now, {precision.name} ({precision.reason}).")


def run(*words: object, tolerated: tuple[int, ...] = (0,)) -> None:
    """Print a ``busi-monai`` command and run it; end here if it fails.

    ``audit`` and ``prepare`` exit with 1 where a dataset holds a damaged file: they have listed it
    and done the rest, and so does the demonstration.
    """
    command = ["busi-monai", *(str(word) for word in words)]
    print(f"\n$ {shlex.join(command)}", flush=True)
    code = "from busi_monai.cli.main import main; main(prog_name='busi-monai')"
    done = subprocess.run([sys.executable, "-c", code, *command[1:]], check=False)
    if done.returncode not in tolerated:
        sys.exit(done.returncode)


def keep_run(folder: Path) -> None:
    """Rename the run of an earlier demonstration, which training would refuse to overwrite."""
    if not (folder / "configs" / "train.yaml").is_file():
        return
    number = 1
    while (kept := folder.with_name(f"{folder.name}_{number}")).exists():
        number += 1
    folder.rename(kept)
    print(f"\nThe earlier run is kept as {kept}")


def test_images(prepared: Path, count: int) -> list[Path]:
    """Return the first images of the test split, of each class in turn."""
    items = json.loads((prepared / "datalist.json").read_text(encoding="utf-8"))["test"]
    by_class: dict[int, list[Path]] = {}
    for item in items:
        by_class.setdefault(item["class_label"], []).append(prepared / item["image"])
    turns = zip(*by_class.values(), strict=False)
    return [path for turn in turns for path in turn][:count]


def print_tree(folder: Path) -> None:
    """Print the folder's tree, a few files of each folder."""
    print(f"\n{folder}/")
    for path in sorted(folder.rglob("*"), key=natural_key):
        parts = path.relative_to(folder).parts
        siblings = sorted(path.parent.iterdir(), key=natural_key)
        place = siblings.index(path)
        if len(parts) > 3 or (len(siblings) > 12 and place > SHOWN_PER_FOLDER):
            continue
        indent = "    " * (len(parts) - 1)
        if len(siblings) > 12 and place == SHOWN_PER_FOLDER:
            print(f"    {indent}… {len(siblings) - place} more")
            continue
        print(f"    {indent}{path.name}{'/' if path.is_dir() else ''}")


if __name__ == "__main__":
    main()
