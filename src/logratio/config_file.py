"""The settings of a command in a YAML file: written by every run, read by `--config`."""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml

from logratio.errors import BadConfig
from logratio.run_directory import atomic_write

COMMAND = "command"
"""The key that says which command a file is for."""
ONCE = frozenset({"resume", "overwrite"})
"""What one call asked for and its repetition shall not."""
Settings = TypeVar("Settings")


def write_settings(path: Path, command: str, settings: Any) -> None:
    """Write a command's settings, so that `logratio COMMAND --config PATH` runs it again.

    Args:
        path: the file.
        command: such as `train dpo`.
        settings: a dataclass; components are mappings of their own.

    Raises:
        DiskFull, NotWritable: what stood there before is intact.
    """
    values = {COMMAND: command} | {
        name: value for name, value in to_mapping(settings).items() if name not in ONCE
    }
    with atomic_write(path) as stream:
        stream.write(f"# logratio {command} --config {path}\n")
        yaml.safe_dump(values, stream, sort_keys=False, allow_unicode=True)


def to_mapping(settings: Any) -> dict[str, Any]:
    """A dataclass of settings as plain values, components as mappings."""
    return {part.name: _plain(getattr(settings, part.name)) for part in fields(settings)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return to_mapping(value)
    if isinstance(value, tuple | list):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def read_settings(path: Path, command: str, kind: type[Settings], *, missing: Any) -> Settings:
    """The settings in a YAML file; what it leaves out has its default.

    A setting of a component stands under the component's name, as in
    `training: {optimizer: {learning_rate: …}}`, or by its own name alone, as flags do, where only one
    component has it: `learning_rate: …`.

    Args:
        path: the file.
        command: what is called; a file that was written by another command is refused.
        kind: the command's settings, a dataclass.
        missing: stands for required settings that the file leaves out.

    Raises:
        BadConfig: the file is not there or no YAML mapping, is another command's, or has a key or a value
            that is none of this command's.
    """
    values = dict(_load(path))
    written_by = values.pop(COMMAND, command)
    if written_by != command:
        raise BadConfig(
            f"these are the settings of `logratio {written_by}`, not of `logratio {command}`",
            where=str(path),
            action=f"call `logratio {written_by} --config {path}`, or give a file of this command",
        )
    return _build(kind, _nest(kind, values, where=str(path)), where=str(path), missing=missing)


def _load(path: Path) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as stream:
            values = yaml.safe_load(stream)
    except OSError as error:
        raise BadConfig(
            f"the file cannot be read: {error.strerror}", where=f"--config {path}", action="give a YAML file"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark is not None else ""
        what = getattr(error, "problem", None) or "it is not UTF-8"
        raise BadConfig(
            f"the file is no YAML: {what}", where=f"{path}{line}", action="write `name: value` lines"
        ) from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise BadConfig(
            "the file holds no settings by name", where=str(path), action="write `name: value` lines"
        )
    return values


def _nest(kind: type[Any], values: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Settings given by their own names, put under the component that has them."""
    nested: dict[str, Any] = {}
    for name, value in values.items():
        spelled = name.replace("-", "_")
        homes = [home for home in _homes(kind) if home[-1] == spelled]
        if spelled in _parts(kind):
            homes = [(spelled,)]
        if len(homes) != 1:
            raise BadConfig(_no_such(name, homes), where=f"{where}: {name}", action=_known(kind))
        place = nested
        for component in homes[0][:-1]:
            place = place.setdefault(component, {})
        if homes[0][-1] in place:
            raise BadConfig(f"{name} is given twice", where=f"{where}: {name}", action="give it in one place")
        place[homes[0][-1]] = value
    return nested


def _no_such(name: str, homes: list[tuple[str, ...]]) -> str:
    if not homes:
        return f"there is no setting {name!r}"
    return f"{name!r} is a setting of {' and of '.join('.'.join(home[:-1]) for home in homes)}"


def _known(kind: type[Any]) -> str:
    return f"one of: {', '.join(sorted({home[-1] for home in _homes(kind)}))}"


def _parts(kind: type[Any]) -> dict[str, Field[Any]]:
    return {part.name: part for part in fields(kind)}


def _homes(kind: type[Any], above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every setting, those of components included."""
    hints = get_type_hints(kind)
    for part in fields(kind):
        if is_dataclass(hints[part.name]):
            yield from _homes(hints[part.name], (*above, part.name))
        else:
            yield (*above, part.name)


def _build(
    kind: type[Any], values: Mapping[str, Any], *, where: str, missing: Any, base: Any = None, above: str = ""
) -> Any:
    """Settings of a kind: those given, the others as `base` has them, or as they are by default."""
    hints, parts = get_type_hints(kind), _parts(kind)
    built: dict[str, Any] = {}
    for name, value in values.items():
        spelled, at = str(name).replace("-", "_"), f"{where}: {above}{name}"
        if spelled not in parts:
            raise BadConfig(f"there is no setting {name!r}", where=at, action=f"one of: {', '.join(parts)}")
        if not is_dataclass(hints[spelled]):
            built[spelled] = convert(value, hints[spelled], where=at)
        elif isinstance(value, dict):
            # What a component leaves out stays as this command has it, which may not be the component's own.
            inner = _default(parts[spelled]) if base is None else getattr(base, spelled)
            kind_of_inner = hints[spelled] if inner is None else type(inner)
            built[spelled] = _build(
                kind_of_inner, value, where=where, missing=missing, base=inner, above=f"{above}{name}."
            )
        else:
            raise BadConfig(
                f"{name} holds several settings", where=at, action="write them below it, indented"
            )
    for name, part in parts.items():
        if name not in built and base is not None:
            built[name] = getattr(base, name)
        elif name not in built and part.default is MISSING and part.default_factory is MISSING:
            built[name] = missing
    return kind(**built)


def _default(part: Field[Any]) -> Any:
    """A component as it is where nothing is said of it; `None` where all of it must be given."""
    return part.default_factory() if callable(part.default_factory) else None


def convert(value: Any, hint: Any, *, where: str) -> Any:
    """A value of a YAML file as the type that a setting has.

    Raises:
        BadConfig: it is none.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        return convert(value, next(kind for kind in arguments if kind is not type(None)), where=where)
    if origin is Literal:
        if value in arguments:
            return value
        allowed = ", ".join(map(str, arguments))
        raise BadConfig(f"the value is {value!r}", where=where, action=f"one of: {allowed}")
    if origin is tuple:
        return _convert_many(value, arguments, where=where)
    return _convert_one(value, hint, where=where)


def _convert_one(value: Any, kind: type[Any], *, where: str) -> Any:
    # True is an int to Python, and no number to anybody else.
    if isinstance(value, bool) is (kind is bool):
        if kind is float and isinstance(value, int | str):
            return _as_float(value, where=where)
        if kind is Path and isinstance(value, str):
            return Path(value)
        if isinstance(value, kind):
            return value
    raise BadConfig(
        f"the value is {value!r}, a {type(value).__name__}", where=where, action=f"give a {kind.__name__}"
    )


def _convert_many(value: Any, arguments: tuple[Any, ...], *, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise BadConfig(f"the value is {value!r}", where=where, action="give a list")
    kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
    if len(kinds) != len(value):
        raise BadConfig(f"there are {len(value)} values", where=where, action=f"give {len(kinds)}")
    return tuple(convert(one, kind, where=where) for one, kind in zip(value, kinds, strict=True))


def _as_float(value: int | str, *, where: str) -> float:
    # YAML takes 1e-5 for a text: its numbers want a dot.
    try:
        return float(value)
    except ValueError as error:
        raise BadConfig(f"the value is {value!r}", where=where, action="give a number") from error
