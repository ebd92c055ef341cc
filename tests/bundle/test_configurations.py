from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.bundle.configurations import (
    differences,
    read_configuration,
    refuse_differences,
    write_configuration,
)
from busi_monai.errors import InputError


def test_order_text_and_expressions_come_back(tmp_path: Path) -> None:
    config = {"b": "$@a + 1", "a": [1, 2.5], "ü": {"_target_": "torch.nn.ReLU"}}
    write_configuration(tmp_path / "new" / "c.yaml", config)
    found = read_configuration(tmp_path / "new" / "c.yaml")
    assert found == config and list(found) == list(config)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"a: [", "is not YAML"), (b"\xff\xfe\xff", "is not YAML"), (b"- 1", "expected a mapping")],
)
def test_what_is_no_configuration_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "c.yaml").write_bytes(content)
    with pytest.raises(InputError, match=f"c.yaml.*{message}"):
        read_configuration(tmp_path / "c.yaml")


def test_a_missing_or_unreadable_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_configuration(tmp_path / "none.yaml")
    with pytest.raises(InputError, match="cannot be read"):
        read_configuration(tmp_path)


def test_differences_name_nested_keys() -> None:
    before, now = {"a": {"b": [1, 2], "c": 3}}, {"a": {"b": [1], "c": 3, "d": None}}
    told = ["a#b was [1, 2], now [1]", "a#d was left out, now None"]
    assert list(differences(before, now)) == told


def test_a_refusal_stays_short() -> None:
    """Five differences are named, and of a whole section its beginning is shown."""
    before = {name: ["text"] * 99 for name in "abcdefg"}
    with pytest.raises(
        InputError, match=r"e was \['text', .*…, now 1; and 2 more\. Stop"
    ) as refused:
        refuse_differences(Path("run"), before, dict.fromkeys(before, 1), "Stop")
    assert len(str(refused.value)) < 1000 and "f was" not in str(refused.value)
