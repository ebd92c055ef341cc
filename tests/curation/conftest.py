"""Prepared phantoms that the tests of prepare, verify and their commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from busi_monai.curation import Audit, PrepareOptions, PrepareSummary, prepare_dataset
from busi_monai.phantoms import write_phantom_dataset


@pytest.fixture(scope="module")
def defective(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantoms, and near-duplicates, a class conflict, multi-mask cases and bad files."""
    folder = tmp_path_factory.mktemp("defective") / "busi"
    return write_phantom_dataset(folder, cases=24, seed=1, size=(96, 128), defects=True)


@pytest.fixture(scope="module")
def without_figures() -> Iterator[None]:
    """Prepare without the audit's figures, which take longest with few images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("busi_monai.curation.prepare.write_audit", lambda audit, out: [])
        yield


@pytest.fixture
def prepare(without_figures: None) -> Callable[..., PrepareSummary]:
    """Prepare with options given as keywords."""
    return lambda source, out, **options: prepare_dataset(source, out, PrepareOptions(**options))


@pytest.fixture(scope="session")
def busi_published_split(
    real_busi: Path,
    reference: Path,
    audit_of: Callable[[Path], Audit],
    once: Callable[..., Path],
) -> Callable[[int], Path]:
    """Prepares BUSI by one of three published splits, each once; not to be changed."""

    def prepared(number: int) -> Path:
        lists = reference / "published_splits"
        options = PrepareOptions(
            protocol="file",
            train_list=lists / f"split{number}_train.txt",
            validation_list=lists / f"split{number}_val.txt",
        )
        return once(
            f"split {number}",
            lambda out: prepare_dataset(real_busi, out, options, audit=audit_of(real_busi)),
        )

    return prepared
