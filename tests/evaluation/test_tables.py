from __future__ import annotations

import pytest

from busi_monai.errors import InputError
from busi_monai.evaluation import read_predictions, table_classes
from busi_monai.evaluation.tables import check_predictions, row_groups


def test_written_and_read_again_names_stay_names(tmp_path, table):
    table.loc[0, "id"] = "NA"
    table.loc[1, "id"] = "007"
    table.to_csv(tmp_path / "predictions.csv", index=False)
    read = read_predictions(tmp_path)
    assert read["id"].tolist()[:2] == ["NA", "007"]
    assert read["dice"].dtype == float and read["error"].eq("").all()
    assert table_classes(read) == ("normal", "benign", "malignant")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable table"),
        ("id,true_class\n", "no rows"),
        ("id,dice\na,much\n", "'dice' holds no numbers"),
        ('id,dice\n"a,1\n', "not a readable table"),
    ],
)
def test_a_wrong_file_is_told_with_its_name(tmp_path, content, message):
    path = tmp_path / "predictions.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_predictions(path)
    assert str(path) in str(caught.value)


def test_a_missing_table_is_told(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        read_predictions(tmp_path)


def test_missing_columns_are_named(table):
    with pytest.raises(InputError, match="lacks the columns true_class, p_benign"):
        check_predictions(table.drop(columns=["true_class", "p_benign"]), ("benign", "malignant"))


def test_an_unknown_class_is_named(table):
    table.loc[3, "true_class"] = "cyst"
    with pytest.raises(InputError, match="true_class: cyst"):
        check_predictions(table, ())


def test_values_that_are_no_probabilities_are_told(table):
    table.loc[3, "p_benign"] = 1.4
    with pytest.raises(InputError, match=r"'case \(3\)' and 0 more"):
        check_predictions(table, ("benign",))


def test_an_image_without_a_group_is_one_of_its_own(table):
    table.loc[:2, "group"] = ["1", "1", ""]
    groups = row_groups(table)
    assert groups[0] == groups[1] != groups[2]
    assert len(set(row_groups(table.drop(columns="group")))) == len(table)
