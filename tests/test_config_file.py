"""Settings in a YAML file: what is written is read, by components or by own names, and faults say where."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from logratio.cli.main import COMMANDS, main
from logratio.config_file import read_settings, to_mapping, write_settings
from logratio.errors import BadConfig

REQUIRED = object()


@dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 1e-5
    kind: Literal["cosine", "linear"] = "cosine"
    names: tuple[str, ...] = ()
    limit: int | None = 3


@dataclass(frozen=True, kw_only=True)
class Outer:
    out: Path
    verbose: bool = False
    resume: bool = False
    inner: Inner = field(default_factory=lambda: Inner(rate=0.5))
    other: Inner = field(default_factory=lambda: Inner(kind="linear"))


def read(path, text):
    path.write_text(text)
    return read_settings(path, "do", Outer, missing=REQUIRED)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "config.yaml"


def test_what_is_written_is_read(path):
    settings = Outer(
        out=Path("runs/é"),
        verbose=True,
        inner=Inner(rate=1e-7, kind="linear", names=("a", "b: c"), limit=None),
        other=Inner(names=("x",)),
    )
    write_settings(path, "do", settings)
    assert read_settings(path, "do", Outer, missing=REQUIRED) == settings
    assert path.read_text().startswith("# logratio do --config")


def test_what_one_call_asked_for_is_not_repeated(path):
    write_settings(path, "do", Outer(out=Path("x"), resume=True))
    assert "resume" not in path.read_text()
    assert not read_settings(path, "do", Outer, missing=REQUIRED).resume


def test_a_component_keeps_what_the_command_has_it_at(path):
    """Not the component's own defaults: 0.5 and linear are the command's."""
    read_back = read(path, "out: x\ninner: {limit: 7}\nother: {rate: 2}\n")
    assert read_back.inner == Inner(rate=0.5, limit=7)
    assert read_back.other == Inner(rate=2.0, kind="linear")


def test_required_settings_may_come_by_flags(path):
    assert read(path, "verbose: true\n").out is REQUIRED


def test_numbers_without_a_dot_are_numbers(path):
    """YAML takes 1e-6 for a text."""
    assert read(path, "out: x\ninner: {rate: 1e-6}\n").inner.rate == 1e-6


def test_settings_by_their_own_names(path):
    @dataclass(frozen=True, kw_only=True)
    class Single:
        inner: Inner = field(default_factory=Inner)

    path.write_text("rate: 1e-6\nlimit: null\n")
    assert read_settings(path, "do", Single, missing=REQUIRED).inner == Inner(rate=1e-6, limit=None)


@pytest.mark.parametrize(
    ("text", "what", "where"),
    [
        ("out: x\ninner: {ratte: 1}\n", "there is no setting 'ratte'", "config.yaml: inner.ratte"),
        ("out: x\nratte: 1\n", "there is no setting 'ratte'", "config.yaml: ratte"),
        ("out: x\nrate: 1\n", "a setting of inner and of other", "config.yaml: rate"),
        ("out: x\ninner: {kind: sine}\n", "'sine'", "config.yaml: inner.kind"),
        ("out: x\ninner: {rate: fast}\n", "'fast'", "config.yaml: inner.rate"),
        ("out: x\ninner: {limit: 2.5}\n", "2.5, a float", "config.yaml: inner.limit"),
        ("out: x\ninner: {limit: true}\n", "True, a bool", "config.yaml: inner.limit"),
        ("out: x\ninner: {names: a}\n", "'a'", "config.yaml: inner.names"),
        ("out: x\ninner: 3\n", "inner holds several settings", "config.yaml: inner"),
        ("out: x\nverbose: 1\n", "1, a int", "config.yaml: verbose"),
        ("command: undo\n", "the settings of `logratio undo`", "config.yaml"),
        ("- 1\n", "no settings by name", "config.yaml"),
        ("out: x\n  y: [\n", "no YAML", "config.yaml:2"),
        ("out: x\ninner: {rate: 1}\ninner: {rate: 2}\nverbose: no\n", None, None),
    ],
)
def test_faults_say_what_and_where(path, text, what, where):
    if what is None:
        assert read(path, text).inner.rate == 2.0
        return
    with pytest.raises(BadConfig) as raised:
        read(path, text)
    assert what in raised.value.what
    assert where in raised.value.where
    assert raised.value.action


def test_a_file_that_is_not_there(tmp_path, capsys):
    assert main(["train", "dpo", "--config", str(tmp_path / "none.yaml")]) == 2
    said = capsys.readouterr().err
    assert "BadConfig: the file cannot be read" in said
    assert "none.yaml" in said


def test_config_names_no_file(capsys):
    assert main(["train", "dpo", "--config"]) == 2
    assert "--config names no file" in capsys.readouterr().err


def test_what_is_missing_in_file_and_flags_is_named(path, capsys):
    path.write_text("beta: 0.3\n")
    assert main(["train", "dpo", f"--config={path}"]) == 2
    captured = capsys.readouterr()
    assert "--data" in captured.out + captured.err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name.split()[0] not in ("annotate",)])
def test_the_settings_of_every_command_survive_a_file(name, path):
    """Defaults written and read are the defaults: no command has a type that a file cannot hold."""
    import importlib
    from dataclasses import MISSING, fields

    kind = importlib.import_module(COMMANDS[name][0]).Arguments
    required = {
        part.name: Path("p") if "Path" in str(part.type) else ("r",) if "tuple" in str(part.type) else "s"
        for part in fields(kind)
        if part.default is MISSING and part.default_factory is MISSING
    }
    settings = kind(**required)
    write_settings(path, name, settings)
    again = read_settings(path, name, kind, missing=REQUIRED)
    kept = {key: value for key, value in to_mapping(settings).items() if key not in ("resume", "overwrite")}
    assert {key: to_mapping(again)[key] for key in kept} == kept
    assert type(again) is kind
