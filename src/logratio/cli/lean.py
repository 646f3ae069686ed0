"""What PyTorch has for compilers and clusters, left out of a process that has neither.

transformers imports both with the code of any model, which takes 2.5 seconds and 35 MB, and then uses
nothing of them on one machine. In a command's process clusters are said not to be there, as builds of PyTorch
without them say, and the compiler is a placeholder until somebody does use it, which imports it. A program
that imports logratio is left as it is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGES = ("torch._dynamo", "torch.distributed.tensor")
"""The compiler, and tensors that lie on several machines."""
MARKS = ("allow_in_graph", "assume_constant_result", "disable")
"""Decorators that tell the compiler something of a function: without one they have nobody to tell."""
ASKED = (
    "torch.distributed.is_available",
    "transformers.utils.is_torch_flex_attn_available",
    "transformers.utils.import_utils.is_torch_flex_attn_available",
)
"""Who says whether there is a cluster, and attention that is compiled for its mask."""


def leave_out() -> None:
    """Leave compiler and clusters out of this process, where they have not been imported yet."""
    if not any(name in sys.modules for name in (*PACKAGES, "transformers")):
        sys.meta_path.insert(0, Placeholders())


class Placeholders:
    """Gives modules without content in the place of these packages."""

    def __init__(self) -> None:
        self._alone = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A placeholder for a module of these packages; any other is for the next finder."""
        if not self._alone and name.startswith("transformers.") and _has_its_say():
            self._alone = True
            _be_alone()
        ours = any(name == package or name.startswith(f"{package}.") for package in PACKAGES)
        return ModuleSpec(name, self, is_package=True) if ours else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> Placeholder:
        """A module whose classes can be named."""
        return Placeholder(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Nothing: it has no content."""


class Placeholder(ModuleType):
    """A module of which classes can be named; for all else but marks the real one is imported."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in MARKS:
            return mark
        if name[0].isupper():
            return ClassName(self.__name__, name)
        inside = f"{self.__name__}.{name}"
        return importlib.import_module(inside) if _is_module(inside) else real(self.__name__, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("__") or isinstance(value, Placeholder):
            super().__setattr__(name, value)
        else:
            setattr(imported(self.__name__), name, value)


class ClassName:
    """The name of a class whose module has not been imported: it is when the class is used.

    Args:
        module: the module's name.
        name: the class's.
    """

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        """An instance of the class."""
        return real(self._module, self._name)(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(real(self._module, self._name), name)

    def __or__(self, other: Any) -> Any:
        return real(self._module, self._name) | other

    def __ror__(self, other: Any) -> Any:
        return other | real(self._module, self._name)

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[Any, ...]:
        return (real(self._module, self._name),)

    def __instancecheck__(self, thing: object) -> bool:
        # Of a class that was never imported there is no instance.
        module = sys.modules.get(self._module)
        there = module is not None and not isinstance(module, Placeholder)
        return there and isinstance(thing, real(self._module, self._name))


def mark(function: Any = None, *_: Any, **__: Any) -> Any:
    """The function as it is, or what gives it so."""
    return function if callable(function) else mark


def real(module: str, name: str) -> Any:
    """What has this name, in the module itself."""
    return getattr(imported(module), name)


def imported(module: str) -> ModuleType:
    """The module itself; placeholders are at an end, and whatever is asked for from now on is imported."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, Placeholders)]
    for there, placeholder in list(sys.modules.items()):
        if isinstance(placeholder, Placeholder):
            del sys.modules[there]
            parent, _, child = there.rpartition(".")
            vars(sys.modules.get(parent, placeholder)).pop(child, None)
    return importlib.import_module(module)


def _has_its_say() -> bool:
    """Whether transformers is so far imported that it would be asked what there is."""
    return hasattr(sys.modules.get("transformers.utils"), ASKED[1].rpartition(".")[2])


def _be_alone() -> None:
    """Say of PyTorch what its builds without clusters and its older versions say of themselves."""
    for question in ASKED:
        module, _, name = question.rpartition(".")
        setattr(importlib.import_module(module), name, lambda: False)


def _is_module(name: str) -> bool:
    """Whether the package has a module of this name."""
    import torch

    place = Path(torch.__file__).parent.parent.joinpath(*name.split("."))
    return place.is_dir() or place.with_suffix(".py").is_file()
