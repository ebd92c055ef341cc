from __future__ import annotations

from pathlib import Path

import pytest

from busi_monai.cases import CLASSES, Case, class_index, ordered_subset
from busi_monai.errors import InputError


def _case(class_name: str, masks: int = 0) -> Case:
    paths = tuple(Path(f"m{k}.png") for k in range(masks))
    return Case("a", Path("a.png"), paths, class_name, "busi")


def test_the_order_of_the_classes_is_fixed_and_their_case_does_not_matter() -> None:
    assert CLASSES == ("normal", "benign", "malignant")
    assert [class_index(name) for name in CLASSES] == [0, 1, 2]
    assert class_index(" Benign ") == 1
    assert class_index("MALIGNANT", ("benign", "malignant")) == 1


def test_an_unknown_class_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="'cyst'; expected one of normal, benign, malignant"):
        class_index("cyst")
    with pytest.raises(InputError, match="expected one of benign, malignant"):
        class_index("normal", ("benign", "malignant"))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["malignant", "benign"], ("benign", "malignant")),
        (["Benign", "normal"], ("normal", "benign")),
        (["malignant", "normal", "benign", "benign"], CLASSES),
    ],
)
def test_a_subset_keeps_the_order(names: list[str], expected: tuple[str, ...]) -> None:
    assert ordered_subset(names) == expected


@pytest.mark.parametrize("names", [[], ["benign"], ["benign", "BENIGN"], ["benign", "cyst"]])
def test_less_than_two_known_classes_are_refused(names: list[str]) -> None:
    with pytest.raises(InputError):
        ordered_subset(names)


def test_a_case_knows_its_label_and_whether_it_lacks_a_mask() -> None:
    assert [_case(name).class_label for name in CLASSES] == [0, 1, 2]
    assert [_case(name).has_lesion for name in CLASSES] == [False, True, True]
    assert [_case(name).lacks_mask for name in CLASSES] == [False, True, True]
    assert not _case("benign", masks=1).lacks_mask
