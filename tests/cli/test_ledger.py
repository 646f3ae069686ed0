from __future__ import annotations

import pytest

from logratio.cli.ledger import LEDGER, Stage, run_stages
from logratio.errors import RunExists


class Kitchen:
    """Three stages that copy and change texts, and a record of what was done."""

    def __init__(self, directory):
        self.directory, self.done = directory, []
        self.settings = {"first": 1, "second": 1, "third": 1}
        self.fail_in = ""

    def stage(self, name, before):
        output = self.directory / name

        def work(key):
            self.done.append(name)
            if self.fail_in == name:
                output.write_text("half")
                raise KeyboardInterrupt
            text = (self.directory / before).read_text() if before else ""
            if name == "third":
                output.mkdir(exist_ok=True)
                (output / "inside").write_text(text)
            else:
                output.write_text(f"{text}{name}{self.settings[name]}")
            return f"made {name}"

        return Stage(name=name, outputs=(output,), settings={"value": self.settings[name]}, work=work)

    def run(self):
        self.done.clear()
        names = ["first", "second", "third"]
        ledger = run_stages(
            self.directory,
            [self.stage(name, before) for name, before in zip(names, ["", *names], strict=False)],
        )
        return list(self.done), ledger


@pytest.fixture
def kitchen(tmp_path):
    return Kitchen(tmp_path)


def test_what_stands_is_not_done_again(kitchen, capsys):
    done, ledger = kitchen.run()
    assert done == ["first", "second", "third"]
    assert [ledger[name]["headline"] for name in done] == ["made first", "made second", "made third"]
    capsys.readouterr()
    assert kitchen.run()[0] == []
    assert "[2/3] second: stands already (made second)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("first", ["first", "second", "third"]),
        ("second", ["second", "third"]),
        ("third", ["third"]),
    ],
)
def test_a_change_reaches_what_follows(kitchen, changed, expected):
    kitchen.run()
    kitchen.settings[changed] = 2
    assert kitchen.run()[0] == expected
    assert kitchen.run()[0] == []


def test_a_file_changed_by_hand_is_a_change_for_what_follows(kitchen):
    kitchen.run()
    (kitchen.directory / "first").write_text("by hand")
    assert kitchen.run()[0] == ["second", "third"]
    assert (kitchen.directory / "second").read_text() == "by handsecond1"


def test_an_output_that_is_gone_is_made_again(kitchen):
    kitchen.run()
    (kitchen.directory / "second").unlink()
    assert kitchen.run()[0] == ["second"]


def test_a_stage_that_was_stopped_is_called_again(kitchen):
    kitchen.fail_in = "second"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run()
    kitchen.fail_in = ""
    assert kitchen.run()[0] == ["second", "third"]
    assert (kitchen.directory / "second").read_text() == "first1second1"


def test_what_a_stopped_stage_left_is_there_for_it_unless_settings_changed(kitchen):
    seen = []
    kitchen.fail_in = "second"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run()
    output = kitchen.directory / "second"

    def work(key):
        seen.append(output.exists())
        raise KeyboardInterrupt

    first = kitchen.stage("first", "")
    same = Stage(name="second", outputs=(output,), settings={"value": 1}, work=work)
    other = Stage(name="second", outputs=(output,), settings={"value": 2}, work=work)
    for stage in (same, other):
        with pytest.raises(KeyboardInterrupt):
            run_stages(kitchen.directory, [first, stage])
    assert seen == [True, False]


def test_a_directory_of_other_settings_is_removed_whole(kitchen):
    kitchen.run()
    (kitchen.directory / "third" / "old").write_text("old")
    kitchen.settings["third"] = 2
    kitchen.run()
    assert [file.name for file in (kitchen.directory / "third").iterdir()] == ["inside"]


def test_what_somebody_else_wrote_is_not_touched(kitchen):
    (kitchen.directory / "second").write_text("mine")
    with pytest.raises(RunExists, match="second is there"):
        kitchen.run()
    assert (kitchen.directory / "second").read_text() == "mine"
    assert (kitchen.directory / LEDGER).exists()
