"""The harness that runs mutants: it must be able to say that one lives."""

import sys
from pathlib import Path

import pytest

from logratio.objectives import bradley_terry
from mutants.harness import Mutant, plant, run_checks, survivors

CHECK = "objectives/test_bradley_terry.py::test_hand_worked"
OTHER_CHECK = "objectives/test_bradley_terry.py::test_gradcheck"
MODULE = "logratio.objectives.bradley_terry"
SYMBOL = f"{MODULE}:preference_probability"


def mutant(
    new: str,
    *,
    old: str = "return (a - b).sigmoid()",
    symbol: str = SYMBOL,
    checks: tuple[str, ...] = (CHECK,),
) -> Mutant:
    return Mutant(name="a trial", symbol=symbol, old=old, new=new, checks=checks)


def test_a_change_that_matters_is_seen_by_the_test_it_matters_to(tmp_path):
    """(b − a) is wrong, and a smooth function all the same."""
    wrong = mutant("return (b - a).sigmoid()", checks=(CHECK, OTHER_CHECK))
    assert survivors(wrong, tmp_path) == [OTHER_CHECK]


def test_a_change_that_does_not_matter_survives(tmp_path):
    assert survivors(mutant("return (a + (-b)).sigmoid()"), tmp_path) == [CHECK]


def test_everything_is_as_it_was_afterwards(tmp_path):
    modules, path = dict(sys.modules), list(sys.path)
    survivors(mutant("return (b - a).sigmoid()"), tmp_path)
    assert sys.path == path
    assert {name for name in modules if sys.modules.get(name) is not modules[name]} == set()
    assert sys.modules[MODULE] is bradley_terry
    assert not [name for name, module in sys.modules.items() if str(tmp_path) in str(module)]


def test_the_copy_is_what_runs(tmp_path):
    path = plant(mutant("raise ZeroDivisionError"), tmp_path)
    outcomes = run_checks((CHECK,), path)
    assert list(outcomes.failed) == [CHECK]
    assert "ZeroDivisionError" in outcomes.failed[CHECK]


@pytest.mark.parametrize(
    ("new", "old", "checks", "complaint"),
    [
        ("x", "no such text", (CHECK,), "stands 0 times"),
        ("x", "Float", (CHECK,), "times in"),
        ("return unknown_name", "return (a - b).sigmoid()", (CHECK,), "NameError"),
        ("return (", "return (a - b).sigmoid()", (CHECK,), "SyntaxError"),
        (
            "return a",
            "return (a - b).sigmoid()",
            ("objectives/test_bradley_terry.py::test_nothing",),
            "did not run",
        ),
    ],
)
def test_what_is_no_mutant_is_refused(tmp_path, new, old, checks, complaint):
    with pytest.raises(LookupError, match=complaint):
        survivors(mutant(new, old=old, checks=checks), tmp_path)


@pytest.mark.parametrize(
    ("symbol", "complaint"),
    [
        (f"{MODULE}:comparison_loss", "stands 0 times in comparison_loss"),
        (f"{MODULE}:nothing", "nothing is named nothing"),
        ("logratio.objectives.nothing:comparison_loss", "no module logratio.objectives.nothing"),
    ],
)
def test_the_text_is_looked_for_in_the_symbol_alone(tmp_path, symbol, complaint):
    with pytest.raises(LookupError, match=complaint):
        plant(mutant("x", symbol=symbol), tmp_path)


def test_a_mutant_after_another_of_the_same_size_and_second_runs_its_own_code(tmp_path):
    """Bytecode is told by a file's second and size."""
    for index, new in enumerate(
        ("return (b - a).sigmoid()", "return (a - a).sigmoid()", "return (a - b).sigmoid()")
    ):
        path = plant(
            mutant(new, old="return (a - b).sigmoid()") if index < 2 else None, tmp_path / str(index)
        )
        outcomes = run_checks((CHECK,), path)
        assert bool(outcomes.failed) == (index < 2)


def test_the_package_itself_is_not_touched(tmp_path):
    before = Path(bradley_terry.__file__).read_text()
    plant(mutant("return a"), tmp_path)
    assert Path(bradley_terry.__file__).read_text() == before
