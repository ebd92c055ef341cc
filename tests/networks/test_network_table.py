from __future__ import annotations

from pathlib import Path

from busi_monai.networks import ENCODERS


def test_every_encoder_has_a_row(repository: Path) -> None:
    """What stands in the rows is held by ``test_result_tables.py``."""
    page = (repository / "docs" / "networks.md").read_text("utf-8")
    rows = page.split("<!-- table: encoders -->")[1].split("<!-- end -->")[0]
    named = [line.split("`")[1] for line in rows.splitlines() if line.startswith("| `")]
    assert named == sorted(ENCODERS)
