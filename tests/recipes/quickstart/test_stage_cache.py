from __future__ import annotations

from dataclasses import replace

import pytest

from logratio.errors import RunExists
from logratio.recipes.quickstart.stage_cache import LEDGER, CachedStage, run_stages
from logratio.run_directory import hash_file, hash_json


class Kitchen:
    """Three stages that copy and change texts, each from the one before, and a record of what was done."""

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

        return CachedStage(
            name=name,
            after=(before,) if before else (),
            outputs=(output,),
            settings={"value": self.settings[name]},
            work=work,
        )

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
    assert "[2/3] second: up to date (made second)" in capsys.readouterr().out


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
    same = CachedStage(name="second", after=("first",), outputs=(output,), settings={"value": 1}, work=work)
    other = replace(same, settings={"value": 2})
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


class Branches:
    """A root, two branches from it, what grows on one, and a table of what is asked for."""

    def __init__(self, directory):
        self.directory, self.done = directory, []
        self.settings = {"root": 1, "left": 1, "right": 1, "leaf": 1, "table": 1}

    def run(self, *, right=True):
        self.done.clear()
        grows_from = {
            "root": (),
            "left": ("root",),
            "right": ("root",),
            "leaf": ("right",),
            "table": ("left", "leaf") if right else ("left",),
        }
        stages = [
            CachedStage(
                name=name,
                after=after,
                outputs=(self.directory / name,),
                settings={"value": self.settings[name]},
                work=lambda key, name=name, after=after: self.write(name, after),
                enabled=right or name not in ("right", "leaf"),
            )
            for name, after in grows_from.items()
        ]
        return run_stages(self.directory, stages)

    def write(self, name, after):
        self.done.append(name)
        below = "".join((self.directory / one).read_text() for one in after)
        (self.directory / name).write_text(f"{below}{name}{self.settings[name]} ")
        return name

    def names(self):
        return {path.name for path in self.directory.iterdir()} - {LEDGER}


@pytest.fixture
def branches(tmp_path):
    return Branches(tmp_path)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ("root", ["root", "left", "right", "leaf", "table"]),
        ("left", ["left", "table"]),
        ("right", ["right", "leaf", "table"]),
        ("leaf", ["leaf", "table"]),
    ],
)
def test_a_change_does_not_reach_another_branch(branches, changed, expected):
    branches.run()
    branches.settings[changed] = 2
    branches.run()
    assert branches.done == expected
    assert (branches.directory / "table").read_text().count(f"{changed}2") == (2 if changed == "root" else 1)


def test_stages_that_are_asked_for_later_are_added(branches, capsys):
    branches.run(right=False)
    assert branches.done == ["root", "left", "table"]
    assert "[3/3] table" in capsys.readouterr().out
    branches.run()
    assert branches.done == ["right", "leaf", "table"]
    branches.run()
    assert branches.done == []


def test_stages_that_are_not_asked_for_stay_as_long_as_what_they_build_on(branches):
    branches.run()
    ledger = branches.run(right=False)
    assert branches.done == ["table"]
    assert branches.names() == {"root", "left", "right", "leaf", "table"}
    assert ledger["right"]["done"]
    branches.settings["left"] = 2
    branches.run(right=False)
    assert branches.done == ["left", "table"]
    assert branches.names() == {"root", "left", "right", "leaf", "table"}
    branches.run()
    assert branches.done == ["table"]
    branches.settings["root"] = 2
    ledger = branches.run(right=False)
    assert branches.done == ["root", "left", "table"]
    assert branches.names() == {"root", "left", "table"}
    assert set(ledger) == {"root", "left", "table"}


def test_what_builds_on_a_change_is_gone_even_if_the_run_is_stopped_at_once(branches, monkeypatch):
    branches.run()
    branches.settings["root"] = 2

    def stop(name, after):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(branches, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            branches.run(right=False)
    branches.run(right=False)
    assert branches.names() == {"root", "left", "table"}


def test_keys_of_a_chain_are_what_they_were(kitchen):
    """Directories that an earlier version made go on to stand."""
    kitchen.run()
    expected, key = {}, ""
    for name in ("first", "second", "third"):
        key = hash_json([name, {"value": 1}, key])
        expected[name] = key
        files = [] if name == "third" else [hash_file(kitchen.directory / name)]
        key = hash_json([key, *files])
    ledger = kitchen.run()[1]
    assert {name: entry["key"] for name, entry in ledger.items()} == expected


def test_the_time_of_a_stage_is_that_of_all_its_attempts(kitchen, monkeypatch, capsys):
    clock = "logratio.recipes.quickstart.stage_cache.time.monotonic"
    monkeypatch.setattr(clock, iter([0.0, 7.0, 10.0, 12.0]).__next__)
    kitchen.fail_in = "second"
    with pytest.raises(KeyboardInterrupt):
        kitchen.run()
    kitchen.fail_in = ""
    monkeypatch.setattr(clock, iter([20.0, 24.0, 30.0, 31.0]).__next__)
    _, ledger = kitchen.run()
    assert {name: one["seconds"] for name, one in ledger.items()} == {
        "first": 7.0,
        "second": 6.0,
        "third": 1.0,
    }
    # Other settings are another stage, which begins at 0.
    kitchen.settings["second"] = 5
    monkeypatch.setattr(clock, iter([40.0, 43.0, 50.0, 51.0]).__next__)
    _, ledger = kitchen.run()
    assert ledger["second"]["seconds"] == 3.0
