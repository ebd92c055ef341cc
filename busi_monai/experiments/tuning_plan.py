"""What a search is: datasets, space, fixed settings; checked before anything is written."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from busi_monai.bundle import Bundle
from busi_monai.bundle.configurations import read_configuration
from busi_monai.bundle.shipped import DEFAULT_BUNDLE, find_bundle, find_config
from busi_monai.curation import load_datalist, load_split
from busi_monai.curation.label_hashes import check_same_labels, write_label_hashes
from busi_monai.devices import choose_device
from busi_monai.errors import InputError
from busi_monai.experiments.plans import section_of, training_settings
from busi_monai.experiments.tuning_space import Space
from busi_monai.experiments.tuning_study import KEEP, PRUNERS, TrialStudy
from busi_monai.files import read_json, write_json
from busi_monai.outputs import check_place
from busi_monai.training import check_keys, datalist_hashes
from busi_monai.training.resuming import MACHINE_KEYS

__all__ = ["PLAN_NAME", "TuningPlan"]

PLAN_NAME = "tuning.json"


@dataclass(frozen=True)
class TuningPlan:
    """What a search is, the same for all processes that work on it.

    Attributes:
        prepared: the prepared datasets.
        out: the search's folder.
        space: what is varied, as read from a space file.
        configs: overlays laid over the bundle's ``train.yaml``.
        bundle: name or folder of the bundle.
        overrides: fixed values by configuration key; ``MACHINE_KEYS`` may differ between processes.
        seed: of the proposals.
        pruner: ``median``, ``hyperband`` or ``none``.
        warmup: epochs before a trial may be pruned.
        keep: whose weights are kept, one of ``KEEP``.
    """

    prepared: tuple[Path, ...]
    out: Path
    space: Space
    configs: tuple[str | Path, ...] = ()
    bundle: str | Path = DEFAULT_BUNDLE
    overrides: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    pruner: str = "median"
    warmup: int = 5
    keep: str = "best"

    def study(self) -> TrialStudy:
        """Return the record of the trials."""
        return TrialStudy(
            self.out, self.space, seed=self.seed, pruner=self.pruner, warmup=self.warmup
        )

    def run(self, number: int) -> Path:
        """Return the folder of a trial's run."""
        return self.out / "trials" / f"{number:04d}"

    @property
    def device(self) -> str:
        """The device that overrides, overlays or the bundle name."""
        (settings,) = training_settings(self.bundle, self.configs, self.overrides)
        return str(settings.get("device_name", "auto"))

    def identity(self) -> dict[str, Any]:
        """Return what must be the same when the search is continued, as plain JSON values."""
        laid: dict[str, Any] = {}
        for name in self.configs:
            laid |= read_configuration(find_config(name))
        configuration = {**laid, **self.overrides}
        extra = datalist_hashes([], configuration.get("extra_dataset_dir")).by_name
        return {
            "datalists": [
                *(load_datalist(folder).sha256 for folder in self.prepared),
                *(f"extra {sha256}" for sha256 in extra.get("extra_datalist_sha256", [])),
            ],
            "bundle": find_bundle(self.bundle).name,
            "configuration": {
                key: value
                for key, value in configuration.items()
                if section_of(key) not in MACHINE_KEYS
            },
            "space": self.space.as_dict(),
            "seed": self.seed,
            "pruner": self.pruner,
            "warmup": self.warmup,
        }

    def check(self) -> None:
        """Refuse what no trial could work with, before anything is written."""
        if self.pruner not in PRUNERS or self.keep not in KEEP:
            raise InputError(f"expected a pruner of {PRUNERS} and keep of {KEEP}")
        clashes = self.space.clashes(list(self.overrides))
        if clashes:
            raise InputError(f"{clashes[0]} is both fixed and searched; take it out of one")
        train = Bundle.open(self.bundle).config_file("train")
        if not train.is_file():
            raise InputError(f"{train} is missing: a bundle of several trainings can't be searched")
        files = [train, *(find_config(name) for name in self.configs)]
        check_keys(files, {**self.overrides, **dict.fromkeys(self.space.parameters)})
        choose_device(self.device)
        fold = self.identity()["configuration"].get("fold")
        for split in ("train", "validation"):
            load_split(self.prepared, split, fold=fold)

    def begin(self) -> None:
        """Write down what the search is, or refuse if the folder holds another."""
        from filelock import FileLock

        if not (self.out / PLAN_NAME).is_file():
            check_place(self.out, reads=self.prepared)
        identity = self.identity()
        self.out.mkdir(parents=True, exist_ok=True)
        names = {path.name for path in self.out.iterdir() if not path.name.startswith(".")}
        if names and PLAN_NAME not in names:
            raise InputError(f"{self.out} is not empty and holds no search; choose another folder")
        with FileLock(self.out / ".begin.lock"):
            path = self.out / PLAN_NAME
            if not path.is_file():
                write_json(path, identity)
                write_label_hashes(self.out, self._labels())
                return
        before = read_json(path)
        now = json.loads(json.dumps(identity))
        for key in identity:
            if before.get(key) != now[key]:
                raise InputError(
                    f"{self.out} holds a search with another {key}: it was begun with "
                    f"{_difference(before.get(key), now[key])}; search anew in another folder"
                )
        check_same_labels(self.out, self._labels(), "Search anew in another folder")

    def _labels(self) -> list[dict[str, Any]]:
        (settings,) = training_settings(self.bundle, self.configs, self.overrides)
        return datalist_hashes(self.prepared, settings.get("extra_dataset_dir")).labels


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*before, *now]:
            if before.get(key) != now.get(key):
                return f"{key}: {before.get(key)!r}, now it is {now.get(key)!r}"
    return f"{before!r}, now it is {now!r}"
