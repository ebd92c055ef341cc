from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.datasets import READERS, read_dataset
from busi_monai.errors import InputError
from busi_monai.phantoms import LAYOUT_WRITERS
from busi_monai.phantoms import write_phantom_dataset as write


def test_every_reader_has_a_writer_and_describes_itself() -> None:
    assert set(READERS) == set(LAYOUT_WRITERS)
    for name, reader in READERS.items():
        assert reader.name == name
        assert reader.looks_like


def test_a_path_that_is_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "x.zip").touch()
    (tmp_path / "nothing").mkdir()

    for name, message in (("gone", "does not exist"), ("x.zip", "a file"), ("nothing", "is empty")):
        with pytest.raises(InputError, match=message):
            read_dataset(tmp_path / name)


def test_an_unknown_layout_says_what_was_looked_for_and_found(tmp_path: Path) -> None:
    (tmp_path / "holiday.png").touch()

    with pytest.raises(InputError) as caught:
        read_dataset(tmp_path)

    message = str(caught.value)
    assert "holiday.png" in message
    assert all(name in message for name in READERS)


def test_a_name_that_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown layout 'dicom'; expected auto, busi"):
        read_dataset(tmp_path, "dicom")


def test_another_layout_than_asked_for(phantom_busi: Path) -> None:
    with pytest.raises(InputError, match="Looked for bus_bra"):
        read_dataset(phantom_busi, "bus-bra")


def test_class_folders_without_images(tmp_path: Path) -> None:
    (tmp_path / "benign").mkdir()
    (tmp_path / "benign" / "readme.txt").touch()

    with pytest.raises(InputError, match="no usable image"):
        read_dataset(tmp_path)


def test_a_folder_above_one_dataset_will_do(phantom_busi: Path) -> None:
    listing = read_dataset(phantom_busi.parent)

    assert listing.root == phantom_busi
    assert len(listing.cases) == 24


def test_a_dataset_nested_twice_is_found(tmp_path: Path) -> None:
    made = write(tmp_path / "Dataset" / "Dataset_BUSI", cases=1, seed=0, size=(32, 32))
    (tmp_path / "__MACOSX" / "Dataset_BUSI" / "benign").mkdir(parents=True)

    assert read_dataset(tmp_path).root == made


def test_several_datasets_further_down_are_named_with_their_folders(tmp_path: Path) -> None:
    write(tmp_path / "all" / "one", cases=1, seed=0, size=(32, 32))
    write(tmp_path / "more" / "two", cases=1, seed=0, size=(32, 32))

    with pytest.raises(InputError, match=r"several datasets: all/one \(busi\), more/two \(busi\)"):
        read_dataset(tmp_path)


def test_a_folder_above_several_datasets_asks_which(tmp_path: Path) -> None:
    write(tmp_path / "one", cases=1, seed=0, size=(32, 32))
    write(tmp_path / "two", cases=1, seed=0, size=(32, 32), layout="bus_bra")

    with pytest.raises(InputError, match=r"several datasets: one \(busi\), two \(bus_bra\)"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, "bus_bra").root.name == "two"
