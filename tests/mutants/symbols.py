"""Where a definition stands in the source of its module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def module_path(root: Path, module: str) -> Path:
    """The file of a module of the package whose parent directory is `root`.

    Raises:
        LookupError: there is no such module.
    """
    relative = module.replace(".", "/")
    for path in (root / f"{relative}.py", root / relative / "__init__.py"):
        if path.exists():
            return path
    raise LookupError(f"there is no module {module}")


def definitions(source: str) -> list[tuple[str, slice]]:
    """Qualified name and whole lines of every function and class, decorators included, outer ones first."""
    starts = [0, *accumulate(map(len, source.splitlines(keepends=True)))]
    return [
        (name, slice(starts[_first_line(node) - 1], starts[node.end_lineno or node.lineno]))
        for name, node in _walk(ast.parse(source), "")
    ]


def find_symbol(source: str, name: str) -> list[slice]:
    """Where the definitions of this qualified name stand; the whole source for no name.

    A name has several where it is overloaded, or is a property with a setter.

    Raises:
        LookupError: nothing of this name is defined.
    """
    if not name:
        return [slice(0, len(source))]
    found = [span for other, span in definitions(source) if other == name]
    if not found:
        raise LookupError(f"nothing is named {name}")
    return found


def replace_within(source: str, name: str, old: str, new: str) -> str:
    """The source with `old` replaced, which stands exactly once in what `name` defines.

    Raises:
        LookupError: it stands there never or more than once, or nothing has this name.
    """
    spans = find_symbol(source, name)
    count = sum(source[span].count(old) for span in spans)
    if count != 1:
        raise LookupError(f"the text to change stands {count} times in {name or 'the module'}")
    place = next(span.start + source[span].index(old) for span in spans if old in source[span])
    return source[:place] + new + source[place + len(old) :]


def _walk(node: ast.AST, scope: str) -> Iterator[tuple[str, Definition]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Definition):
            name = f"{scope}.{child.name}" if scope else child.name
            yield name, child
            yield from _walk(child, name)
        else:
            yield from _walk(child, scope)


def _first_line(node: Definition) -> int:
    return min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
