from __future__ import annotations

import pytest

from busi_monai.curation.id_lists import check_known, read_id_list, read_known_images
from busi_monai.errors import InputError


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("benign (2)\n\n malignant (1).png \n", ["benign (2)", "malignant (1)"]),
        ("class;id\r\nbenign;2\r\nmalignant;1\r\n", ["benign (2)", "malignant (1)"]),
        ("\ufeffid,label\nbenign (2),1\n", ["benign (2)"]),
        ('Image;Label\n"case 7.png";Benign\n', ["case 7"]),
        ("id\n007\n", ["007"]),
    ],
)
def test_lists_in_the_forms_that_are_published(tmp_path, text, ids):
    path = tmp_path / "ids.csv"
    path.write_text(text, encoding="utf-8", newline="")
    assert read_id_list(path) == ids


def test_missing_empty_repeated_and_binary_lists_are_refused(tmp_path):
    path = tmp_path / "ids.txt"
    with pytest.raises(InputError, match="does not exist"):
        read_id_list(path)
    path.write_text("\n")
    with pytest.raises(InputError, match="is empty"):
        read_id_list(path)
    path.write_text("a\nb\na.png\n")
    with pytest.raises(InputError, match="lists a more than once"):
        read_id_list(path)
    path.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(InputError, match="not a readable text file"):
        read_id_list(path)


def test_unknown_ids_are_named():
    with pytest.raises(InputError, match=r"list.txt: 2 of 3 ids are not in the dataset: b, c"):
        check_known(["a", "b", "c"], {"a"}, "list.txt")
    check_known(["a"], {"a", "z"}, "list.txt")


@pytest.mark.parametrize(
    "text",
    [
        "id,reason\na.png,axilla\nb,two; lesions\n",
        "a.png;axilla\nb;two; lesions\n",
        "a\taxilla\nb\ttwo; lesions\n",
        'Reason;Image\naxilla;a\n"two; lesions";b.jpg\n',
    ],
)
def test_what_is_known_of_images_is_a_reason_by_id(tmp_path, text):
    path = tmp_path / "known.csv"
    path.write_text(text, encoding="utf-8")
    assert read_known_images(path, {"a", "b", "c"}) == {"a": "axilla", "b": "two; lesions"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb;axilla\n", "no reason for a; expected a CSV with the columns id and reason"),
        ("\n", "it is empty"),
        ("id,reason\nz,axilla\n", "1 of 1 ids are not in the dataset: z"),
        ("a;axilla\na;axilla\n", "lists a more than once"),
    ],
)
def test_what_is_known_of_images_needs_ids_and_reasons(tmp_path, text, message):
    path = tmp_path / "known.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_known_images(path, {"a", "b"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("first", ["", "sep=;\n"])
def test_lists_are_read_as_spreadsheets_write_them(tmp_path, encoding, first):
    path = tmp_path / "known.csv"
    path.write_text(f"{first}id;reason\nla\u0308sion;axilla, left\n", encoding=encoding)

    assert read_id_list(path) == ["l\u00e4sion"]
    assert read_known_images(path, {"l\u00e4sion"}) == {"l\u00e4sion": "axilla, left"}
