from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.curation.datalist import find_split, shipped_splits
from busi_monai.errors import InputError


def test_splits_are_found_by_name_and_by_path(tmp_path: Path) -> None:
    own = tmp_path / "datalist.json"
    own.write_text("")
    assert find_split("busi-leakfree-v1") == shipped_splits()["busi-leakfree-v1"]
    assert find_split(own) == own
    with pytest.raises(InputError, match=r"no datalist 'v9'; expected a datalist\.json or .*v1"):
        find_split("v9")
