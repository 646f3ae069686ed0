"""The runner of all mutants: it finds them, tells the dead from the living, and its page is current."""

from collections import Counter

import pytest

from mutants.harness import PACKAGE, TESTS, Mutant
from mutants.run import BEGIN, END, Case, Verdict, as_markdown, gather, judge, read_record, write_table
from mutants.symbols import module_path

MUTANTS = [mutant for own in gather().values() for mutant in own]
CHECKS = ("objectives/test_bradley_terry.py::test_hand_worked", "objectives/test_kl.py::test_gradcheck")
TRIAL = Mutant(name="1 − σ", symbol="logratio.objectives.kl:k1", old="a", new="b", checks=CHECKS)
RECORD = """<testsuites><testsuite>
<testcase classname="tests.mutants.test_trial_mutants" name="test_one[1 \\u2212 \\u03c3]">{inside}</testcase>
<testcase classname="tests.mutants.test_trial_mutants" name="test_one[another]"/>
</testsuite></testsuites>"""


def verdict_of(inside: str) -> Verdict:
    return judge("test_trial_mutants", TRIAL, read_record(RECORD.format(inside=inside)))


def test_there_are_many_different_ones_and_none_stands_twice_in_a_file():
    assert len({(one.symbol, one.old, one.new) for one in MUTANTS}) >= 120
    for file, own in gather().items():
        changes = Counter((one.symbol, one.old, one.new) for one in own)
        assert [change for change, count in changes.items() if count > 1] == [], file
        assert len({one.name for one in own}) == len(own), file


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: f"{one.symbol}: {one.name}")
def test_the_text_to_change_stands_once_and_its_tests_are_there(one):
    """Said at once, where running the mutant would say it late."""
    text = module_path(PACKAGE.parent, one.module).read_text(encoding="utf-8")
    assert one.change(text) != text
    assert one.checks
    for check in one.checks:
        file, _, function = check.partition("::")
        assert f"def {function.partition('[')[0]}(" in (TESTS / file).read_text(encoding="utf-8")


def test_a_test_that_passes_has_seen_its_mutant_die():
    verdict = verdict_of("")
    assert verdict.killed
    assert verdict.cells == ("1 − σ", "objectives.kl:k1", "killed", ", ".join(CHECKS))


def test_the_survivor_is_named_with_the_tests_that_saw_nothing():
    verdict = verdict_of(f"""<failure message="AssertionError: assert ['{CHECKS[1]}'] == []"/>""")
    assert (verdict.killed, verdict.survived, verdict.cells[2:]) == (
        False,
        CHECKS[1:],
        ("survived", CHECKS[1]),
    )


@pytest.mark.parametrize("tag", ["failure", "error", "skipped"])
def test_what_cannot_be_tried_is_not_killed(tag):
    verdict = verdict_of(f"""<{tag} message="LookupError: the text stands 0 times&#10;more"/>""")
    assert (verdict.killed, verdict.cells[2:]) == (
        False,
        ("not tried", "LookupError: the text stands 0 times"),
    )
    assert not judge("test_trial_mutants", TRIAL, []).killed
    assert not judge("test_trial_mutants", TRIAL, [Case(file="other", name="x[1 − σ]", problem="")]).killed


def test_the_table_goes_between_the_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    write_table(page, as_markdown([Verdict(mutant=TRIAL), Verdict(mutant=TRIAL, survived=CHECKS[:1])]))
    written = page.read_text()
    assert written.startswith(f"before\n{BEGIN}\n\n1 of 2 mutants are killed.\n")
    assert written.endswith(f"| survived | `{CHECKS[0]}` |\n\n{END}\nafter\n")
    assert "old" not in written
    page.write_text("no marks")
    with pytest.raises(SystemExit, match="lacks the marks"):
        write_table(page, "")


def test_the_page_has_every_mutant():
    """`make mutants` writes it."""
    page = (TESTS.parent / "docs" / "mutants.md").read_text(encoding="utf-8")
    table = page.partition(BEGIN)[2].partition(END)[0]
    listed = [tuple(line.split(" | ")[:2]) for line in table.splitlines() if line.startswith("| ")][1:]
    expected = [(f"| {one.name}", f"`{one.symbol.removeprefix('logratio.')}`") for one in MUTANTS]
    assert listed == expected
    assert f"{len(MUTANTS)} of {len(MUTANTS)} mutants are killed." in page
