"""Run the trainings and evaluations that ``docs/results/accuracy.md`` rests on, step by step.

    python scripts/accuracy_runs.py DATA OUT                 # as on two CPU cores: hours
    python scripts/accuracy_runs.py DATA OUT --profile gpu   # longer, larger, mixed, an ensemble
    python scripts/accuracy_runs.py DATA OUT --steps folds release

DATA holds the datasets' folders as published. A step that is complete is not repeated, and a
training that was interrupted goes on: call it again. Nothing is chosen on a reported fold.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from busi_monai.cases import SPLITS

LISTS = Path(__file__).resolve().parent.parent / "docs" / "results" / "released"
SETS = ("busi", "bus_bra", "bus_uclm")
FOLDERS = dict(zip(SETS, ("Dataset_BUSI_with_GT", "BUS-BRA", "BUS-UCLM"), strict=True))
BREAST = "BrEaST-Lesions-USG"
PROFILES = {
    "cpu": [],
    "gpu": [
        "--set", "image_size=[256, 256]", "--set", "max_epochs=100", "--set", "batch_size=32",
        "--set", "mixing_options={mixup: 0.2, probability: 0.5}", "--set", "deep_supervision=true",
        "--set", "encoder=efficientnet-lite2",
    ],
    "smoke": [
        "--set", "image_size=[32, 32]", "--set", "max_epochs=1", "--set", "batch_size=4",
        "--set", "encoder_weights=null", "--set", "precision=fp32",
    ],
}  # fmt: skip
"""What every training changes of ``configs/released.yaml``."""

Command = list[str]


class Runs:
    """The commands of each step.

    Args:
        data: folder of the datasets.
        out: where everything goes.
        profile: one of ``PROFILES``.
    """

    def __init__(self, data: Path, out: Path, profile: str) -> None:
        self.data = data
        self.out = out
        self.profile = profile
        lengths = {"cpu": ["--epochs", "12"]}.get(profile, [])
        self.changes = [*PROFILES[profile], *lengths]

    def prepare(self) -> list[Command]:
        """Folds of each set, the released weights' splits, and phantoms."""
        folds: dict[str, list[object]] = {
            "busi": ["--folds", "5"],
            "bus_bra": ["--protocol", "official"],
            "bus_uclm": ["--folds", "5"],
        }
        named = [w for n in SPLITS[:3] for w in (f"--{n}-list", LISTS / f"bus_bra_{n}.txt")]
        once: dict[str, list[object]] = {
            "busi": ["--from-datalist", "busi-leakfree-v1-holdout"],
            "bus_bra": ["--protocol", "file", *named],
            "bus_uclm": [],
        }
        if self.profile == "smoke":
            folds = {name: ["--folds", "2"] for name in SETS}
            once = {name: [] for name in SETS}
        commands = [
            ["prepare", self.data / FOLDERS[name], "--out", self.out / kind / name, *how[name]]
            for kind, how in (("folds", folds), ("parts", once))
            for name in SETS
        ]
        commands += [
            ["prepare", self.data / FOLDERS["bus_bra"], "--out", self.out / "all_bus_bra",
             "--protocol", "external"],
            ["prepare", self.data / BREAST, "--out", self.out / "breast", "--protocol", "external"],
            ["phantom", self.out / "phantoms_as_found", "--cases", "120", "--seed", "1001"],
            ["prepare", self.out / "phantoms_as_found", "--out", self.out / "phantoms",
             "--ratios", "100/0/0"],
        ]  # fmt: skip
        return [[str(word) for word in command] for command in commands]

    def folds(self) -> list[Command]:
        """Each image of three sets predicted by a network that never saw it."""
        ensemble = ["--ensemble"] if self.profile == "gpu" else []
        more = ["--set", "consistency={}", *ensemble]
        return [self._training("cross-validate", "folds", SETS, "out_of_fold", *more)]

    def release(self) -> list[Command]:
        """The weights to release, calibrated on validation images."""
        run = self.out / "release"
        prepared = [str(self.out / "parts" / name) for name in SETS]
        changes = PROFILES[self.profile]
        return [
            ["train", *prepared, "--config", "released", "--extra", str(self.out / "phantoms"),
             "--out", str(run), *changes],
            ["evaluate", str(run), *prepared, "--split", "validation",
             "--out", str(run / "validation"), "--no-overlays"],
            ["calibrate", str(run), str(run / "validation")],
        ]  # fmt: skip

    def seeds(self) -> list[Command]:
        """Fold 0 with two further seeds."""
        return [
            command
            for seed in ("1", "2")
            for command in self._fold_0(SETS, f"seed_{seed}", "busi", "--seed", seed)
        ]

    def busi_alone(self) -> list[Command]:
        """A network of BUSI alone on fold 0, and on BUS-BRA, which it never saw."""
        run = self.out / "busi_alone"
        unseen = ["evaluate", str(run), str(self.out / "all_bus_bra"), "--split", "test"]
        longer = ["--epochs", "24"] if self.profile == "cpu" else []  # as many steps as it needs
        return [
            *self._fold_0(("busi",), "busi_alone", "busi", *longer),
            [*unseen, "--out", str(run / "bus_bra"), "--no-overlays"],
        ]

    def leave_one_out(self) -> list[Command]:
        """Each set predicted by a network of the two others."""
        return [
            command
            for left in SETS
            for command in self._fold_0([n for n in SETS if n != left], f"without_{left}", left)
        ]

    def _training(
        self, command: str, kind: str, names: Sequence[str], out: str, *more: str
    ) -> Command:
        prepared = [str(self.out / kind / name) for name in names]
        words = [command, *prepared, "--config", "released", "--out", str(self.out / out)]
        return [*words, "--extra", str(self.out / "phantoms"), *self.changes, *more]

    def _fold_0(self, trained: Sequence[str], out: str, on: str, *more: str) -> list[Command]:
        run = self.out / out
        measure = ["evaluate", str(run), str(self.out / "folds" / on), "--fold", "0"]
        return [
            self._training("train", "folds", trained, out, "--set", "fold=0", *more),
            [*measure, "--out", str(run / f"evaluation_{on}"), "--no-overlays"],
        ]


STEPS: dict[str, Callable[[Runs], list[Command]]] = {
    "prepare": Runs.prepare,
    "folds": Runs.folds,
    "release": Runs.release,
    "seeds": Runs.seeds,
    "busi_alone": Runs.busi_alone,
    "leave_one_out": Runs.leave_one_out,
}
"""Steps in the order of their worth."""


def main(arguments: list[str] | None = None) -> int:
    """Run the steps that are not complete; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--profile", choices=PROFILES, default="cpu")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    options = parser.parse_args(arguments)
    done = options.out / "done.txt"
    options.out.mkdir(parents=True, exist_ok=True)
    complete = set(done.read_text("utf-8").splitlines()) if done.is_file() else set()
    runs = Runs(options.data.absolute(), options.out.absolute(), options.profile)
    for step in options.steps:
        for command in STEPS[step](runs):
            line = shlex.join(command)
            if line in complete:
                continue
            print(f"busi-monai {line}", flush=True)
            status = subprocess.run([*COMMAND, *_resumed(command)], check=False).returncode
            if status:
                print(f"Ended with {status}; call it again to go on.", file=sys.stderr)
                return status
            with done.open("a", encoding="utf-8") as stream:
                stream.write(f"{line}\n")
    return 0


COMMAND = [sys.executable, "-c", "from busi_monai.cli.main import main; main()"]


def _resumed(command: Command) -> Command:
    """Return a training's command as one that goes on, where it was begun."""
    out = Path(command[command.index("--out") + 1]) if "--out" in command else None
    begun = out is not None and (out / "configs" / "train.yaml").is_file()
    return [*command, "--resume"] if command[0] == "train" and begun else command


if __name__ == "__main__":
    sys.exit(main())
