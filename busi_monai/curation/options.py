"""How a dataset is to be prepared, with the checks of what goes together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from busi_monai.curation.protocols import PROTOCOLS, SplitOptions
from busi_monai.curation.splits import PARTS, Ratios
from busi_monai.errors import InputError

__all__ = ["MISSING_MASK", "MULTI_MASK", "PrepareOptions"]

MULTI_MASK: tuple[str, ...] = ("union", "split")
MISSING_MASK: tuple[str, ...] = ("exclude", "classify-only")


@dataclass(frozen=True)
class PrepareOptions:
    """How a dataset is prepared; the defaults are those of ``busi-monai prepare``.

    Attributes:
        layout: name of a reader, or ``auto``.
        protocol: name in ``PROTOCOLS``.
        dedup: for ``random``: drop nothing (``none``), equal pixels (``exact``) or near-duplicates
            (``phash``), the first of each is kept.
        ids: file of the ids to keep, for ``curated``.
        known: file of ids and reasons to leave out, see ``read_known_images``.
        train_list: file of ids, for ``file``; so are ``val_list`` and ``test_list``.
        from_datalist: name of a shipped split, or a ``datalist.json``, to repeat on this copy of
            the dataset. It brings its own protocol, seed and treatment of masks.
        ratios: per cent of training/validation/test.
        folds: number of cross-validation folds, 0 for none.
        seed: of every random draw.
        multi_mask: ``split`` adds a training case for each mask of an image with several.
        missing_mask: whether a lesion without mask is left out or kept for its class alone.
        mask_cleanup: whether masks are smoothed, filled and freed of specks.
        overwrite: whether a folder that was prepared before is replaced.
    """

    layout: str = "auto"
    protocol: str = "leakfree"
    dedup: str = "none"
    ids: Path | None = None
    known: Path | None = None
    train_list: Path | None = None
    val_list: Path | None = None
    test_list: Path | None = None
    from_datalist: str | Path | None = None
    ratios: str = "80/10/10"
    folds: int = 0
    seed: int = 0
    multi_mask: str = "union"
    missing_mask: str = "exclude"
    mask_cleanup: bool = False
    overwrite: bool = False

    def files(self) -> list[Path]:
        """Return the files that the options name, all of which are read."""
        lists = (self.train_list, self.val_list, self.test_list)
        named = (self.ids, self.known, *lists, self.from_datalist)
        return [Path(path) for path in named if path is not None]

    def split_options(self) -> SplitOptions:
        """Return what the protocols need, checked.

        Raises:
            InputError: if an option has no such value, or the protocol does not take it.
        """
        for name, value, allowed in (
            ("protocol", self.protocol, tuple(PROTOCOLS)),
            ("multi-mask", self.multi_mask, MULTI_MASK),
            ("missing-mask", self.missing_mask, MISSING_MASK),
        ):
            if value not in allowed:
                raise InputError(f"{name} {value!r}: expected one of {', '.join(allowed)}")
        if self.folds < 0 or self.folds == 1:
            raise InputError(f"{self.folds} folds: expected 0 for none, or at least 2")
        if self.seed < 0:
            raise InputError(f"seed {self.seed}: expected 0 or more")
        given = zip(PARTS, (self.train_list, self.val_list, self.test_list), strict=True)
        lists = {part: Path(path) for part, path in given if path is not None}
        options = SplitOptions(
            Ratios.parse(self.ratios), self.folds, self.seed, self.dedup, self.ids, lists
        )
        if self.from_datalist is None:
            PROTOCOLS[self.protocol].check_options(options)
        elif replace(self, from_datalist=None, layout="auto", overwrite=False) != PrepareOptions():
            raise InputError(
                "--from-datalist brings its own protocol, seed, parts and treatment of masks; "
                "leave out the options that would choose others"
            )
        return options
