"""Every row of the checks of packing, sampling and accumulation, and of the rows themselves."""

import math

import pytest
import torch

from logratio.verify.checks import mechanics
from logratio.verify.checks.rows import below, control, equal, relative, within


@pytest.mark.parametrize("check", mechanics.CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(False)
    assert rows
    assert [row for row in rows if not row.passed] == []


def test_the_groups_have_unequal_lengths():
    groups = mechanics.unequal_groups(8, num_answers=2)
    lengths = {len(answer) for group in groups for answer in group.answers}
    assert len(lengths) > 5
    assert all(answer[-1] == 0 for group in groups for answer in group.answers)


def test_training_prints_nothing(capsys):
    mechanics.check_gradient_accumulation(True)
    printed = capsys.readouterr()
    assert printed.out == printed.err == ""


def test_rows_by_hand():
    values = torch.tensor([1.0, 2.5]), torch.tensor([1.0, 2.0])
    row = equal("two", *values, tolerance=0.5)
    assert (row.error, row.passed) == (0.5, True)
    assert math.isnan(row.exact)
    assert not equal("one", 1.0, 1.2, tolerance=0.1).passed
    assert equal("one", 1.0, 1.2, tolerance=0.3).exact == 1.2
    assert (
        relative("of norms", torch.tensor([3.0, 4.5]), torch.tensor([3.0, 4.0]), tolerance=0.2).error == 0.1
    )
    assert [below("limit", value, 2.0).passed for value in (1.0, 2.0, 2.1, math.nan)] == [
        True,
        True,
        False,
        False,
    ]
    assert [within("range", value, 1.0, 3.0).passed for value in (1.0, 3.0, 3.1, math.nan)] == [
        True,
        True,
        False,
        False,
    ]
    assert within("range", 2.5, 1.0, 3.0).error == 0.5
    assert [control("wrong", value, at_least=0.1).passed for value in (0.2, 0.05, math.nan)] == [
        True,
        False,
        False,
    ]


def test_nan_passes_nowhere_and_shapes_must_agree():
    assert not equal("NaN", math.nan, 1.0, tolerance=1.0).passed
    first_is_nan = torch.tensor([1.0, math.nan]), torch.tensor([1.0, 1.0])
    assert not equal("a NaN behind", *first_is_nan, tolerance=1.0).passed
    assert not equal("a NaN before", first_is_nan[0].flip(0), first_is_nan[1], tolerance=1.0).passed
    with pytest.raises(ValueError, match="zip"):
        equal("lengths", torch.zeros(2), torch.zeros(3), tolerance=1.0)


def test_a_row_as_json_has_null_for_what_is_not_finite():
    found = control("wrong", 0.5, at_least=0.1).to_json()
    assert found["exact"] is None
    assert found["ours"] is None
    assert (found["error"], found["control"]) == (0.5, True)
