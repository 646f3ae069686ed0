import json

import pytest

from logratio.data.label_metadata import Grade, parse_margin, read_grades
from logratio.errors import BadConfig, MissingColumn, WrongType


@pytest.fixture
def write(tmp_path):
    def rows(*values):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(f"{json.dumps(value)}\n" for value in values))
        return path

    return rows


def test_columns_are_read_by_place_and_written_back(write):
    path = write(
        {"tie": True, "sure": 2},
        {"sure": 0.5, "chosen_reward": 1, "rejected_reward": -0.5},
        {"tie": False, "sure": 0, "chosen_reward": 1},
    )
    grades, unusable = read_grades(path, margin="sure")
    assert unusable == []
    assert list(grades.values()) == [
        Grade(tie=True, margin=2.0),
        Grade(margin=0.5, rewards=(1.0, -0.5)),
        Grade(),
    ]
    assert list(grades) == [f"{path}:{line}" for line in (1, 2, 3)]
    assert grades[f"{path}:1"].to_json("sure") == {"tie": True, "sure": 2.0}
    assert grades[f"{path}:2"].to_json("0.5") == {"chosen_reward": 1.0, "rejected_reward": -0.5}
    assert len(read_grades(path, margin="sure", limit=2)[0]) == 2


def test_one_number_is_every_row_s_margin_and_broken_lines_have_none(write):
    path = write({"a": 1})
    path.write_text(path.read_text() + "no json\n{}\n")
    assert {grade.margin for grade in read_grades(path, margin="0.25")[0].values()} == {0.25}
    assert list(read_grades(path, margin="0")[0]) == [f"{path}:1", f"{path}:3"]


@pytest.mark.parametrize(("text", "value"), [("1e-1", 0.1), ("0", 0.0), ("sure", None), ("nan", None)])
def test_a_margin_is_a_number_where_it_reads_as_one(text, value):
    assert parse_margin(text) == value


@pytest.mark.parametrize(
    ("row", "margin", "fault"),
    [
        ({"sure": "very"}, "sure", WrongType),
        ({"sure": True}, "sure", WrongType),
        ({"sure": -1}, "sure", WrongType),
        ({"shure": 1}, "sure", MissingColumn),
        ({"chosen_reward": "good", "rejected_reward": 0}, "0", WrongType),
    ],
)
def test_a_row_without_a_grade_is_named_and_the_others_are_read(write, row, margin, fault):
    path = write({"sure": 1}, row)
    grades, (left_out,) = read_grades(path, margin=margin)
    assert list(grades) == [f"{path}:1"]
    assert (left_out.source, left_out.fault_name) == (f"{path}:2", fault.__name__)


def test_a_margin_below_0_for_all_rows_is_refused(write):
    with pytest.raises(BadConfig) as caught:
        read_grades(write({}), margin="-1")
    assert caught.value.where == "--margin"
