"""Kill a prediction at random moments, resume it, and compare it with an undisturbed one.

    python scripts/kill_test.py --count 5000 --kills 3 --seed 0

The exit code is 1 where a file, a row or a count differs. Times may.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from busi_monai.outputs import PROGRESS, STAGE
from busi_monai.phantoms import write_phantom_dataset

COMMAND = [sys.executable, "-c", "from busi_monai.cli.main import main; main()", "predict"]
TIMES = ("started", "seconds", "command")


def main() -> None:
    """Run the test as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="number of images")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--model", help="by default the shipped bundle")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="kill-test-") as made:
        folder = Path(made)
        images = make_images(folder, given.count)
        words = [*COMMAND, str(images), "--quiet", "--device", "cpu"]
        words += ["--model", given.model] if given.model else []
        begun = time.monotonic()
        predicting = subprocess.Popen([*words, "--out", str(folder / "whole")])
        wait_for_work(folder / "whole", predicting, beyond=0)
        at_work = time.monotonic()
        predicting.wait()
        span = time.monotonic() - at_work
        print(f"undisturbed: {time.monotonic() - begun:.1f} s for {given.count} images")
        words += ["--out", str(folder / "out"), "--resume"]
        moments = random.Random(given.seed)
        for _ in range(given.kills):
            kill(words, folder / "out", moments.uniform(0.1, 0.9) * span / given.kills)
        if subprocess.run(words, check=False).returncode:
            sys.exit("the resumed prediction failed")
        differences = list(compare(folder / "whole", folder / "out"))
    print("\n".join(differences[:20]) or f"no difference after {given.kills} kills")
    sys.exit(bool(differences))


def make_images(folder: Path, count: int) -> Path:
    """Return a folder of so many phantoms, made of a few."""
    dataset = write_phantom_dataset(folder / "phantoms", cases=24, size=(192, 256))
    found = sorted(path for path in dataset.glob("*/*.png") if "_mask" not in path.name)
    images = folder / "images"
    images.mkdir()
    for number in range(count):
        shutil.copy(found[number % len(found)], images / f"p{number:06d}.png")
    return images


def masks_of(out: Path) -> int:
    """Return how many masks an unfinished prediction has."""
    masks = out / STAGE / "files" / "masks"
    return len(list(masks.iterdir())) if masks.is_dir() else 0


def wait_for_work(out: Path, predicting: subprocess.Popen[bytes], beyond: int) -> None:
    """Wait until a prediction has more masks than it had, or has ended."""
    while predicting.poll() is None and masks_of(out) <= beyond:
        time.sleep(0.02)


def kill(words: list[str], out: Path, seconds: float) -> None:
    """Start a prediction, and kill it so many seconds after it has done anything new."""
    predicting = subprocess.Popen(words)
    wait_for_work(out, predicting, masks_of(out))
    time.sleep(seconds)
    predicting.send_signal(signal.SIGKILL)
    predicting.wait()
    progress = out / STAGE / PROGRESS
    lines = progress.read_bytes().count(b"\n") - 1 if progress.is_file() else 0
    print(f"killed after {seconds:.2f} s of work: {masks_of(out)} masks, {max(lines, 0)} rows")


def compare(expected: Path, found: Path) -> Iterator[str]:
    """Yield what differs between two results, times aside."""
    names = [
        sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file())
        for out in (expected, found)
    ]
    if names[0] != names[1]:
        yield f"files differ: {sorted(set(names[0]) ^ set(names[1]))[:10]}"
    for name in names[0]:
        if not (found / name).is_file():
            continue
        first, second = (content(out / name) for out in (expected, found))
        if first != second:
            yield f"{name} differs"
    if (found / STAGE).exists():
        yield f"{STAGE} is left"


def content(path: Path) -> Any:
    """Return what a file holds, times aside."""
    if path.name == "run.json":
        record = json.loads(path.read_text("utf-8"))
        return {name: value for name, value in record.items() if name not in TIMES}
    if path.name == "predictions.csv":
        with path.open(encoding="utf-8", newline="") as table:
            return [{**row, "seconds": None} for row in csv.DictReader(table)]
    return path.read_bytes()


if __name__ == "__main__":
    main()
