"""Write docs/api.md: every public name with its signature and its docstring.

python docs/make_api.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import logratio

PAGE = Path(__file__).parent / "api.md"
GROUPS = {
    "Models": ["load_policy", "load_reward", "Policy", "LoRA", "ComputeConfig"],
    "Data": [
        *("read_comparisons", "read_prompts", "check", "sample", "label", "rate"),
        *("Prompt", "Message", "Completion", "Comparison", "Sample"),
    ],
    "Training": ["train_sft", "train_dpo", "train_reward_model", "train_reinforce", "train_ppo"],
    "Results": ["Run", "evaluate"],
    "Settings": [
        *("SFTConfig", "DPOConfig", "RewardConfig", "ReinforceConfig", "PPOConfig"),
        *(
            "OptimizerConfig",
            "LoopConfig",
            "OutputConfig",
            "GuardConfig",
            "SamplingConfig",
            "CollectorConfig",
        ),
        *("PreferenceDataConfig", "PromptDataConfig", "OnPolicyOptions", "EvaluationOptions"),
    ],
    "Output": ["set_verbosity"],
    "Modules": ["algorithms", "objectives", "control", "errors"],
}
"""Every public name, in the order of the page."""
HEAD = """# The Python API

Written by `python docs/make_api.py` from the docstrings; a test holds it to `logratio.__all__`.

`import logratio` loads neither PyTorch nor transformers: a name is imported when it is first used. The
functions are what the commands call: `logratio train dpo --data pairs.jsonl --out runs/dpo` is
`logratio.train_dpo("embedded", "pairs.jsonl", out="runs/dpo")`. Faults are `logratio.errors.LogratioError`,
each with what is wrong, where, and what to do. Notes and progress go to standard error;
`logratio.set_verbosity("quiet")` turns them off.

Settings are composed: `DPOConfig(beta=0.1, optimizer=OptimizerConfig(learning_rate=1e-6))`, or by their own
names, whichever component has them: `DPOConfig.of(beta=0.1, learning_rate=1e-6)`.
"""


def page() -> str:
    """The page as it must be."""
    parts = [HEAD]
    for title, names in GROUPS.items():
        parts.append(f"## {title}\n")
        parts += [describe(name) for name in names]
    return "\n".join(parts)


def describe(name: str) -> str:
    """A name with its signature, its docstring and, of settings, what each is."""
    value = getattr(logratio, name)
    text = inspect.cleandoc(value.__doc__ or "")
    if isinstance(value, ModuleType):
        return f"### `logratio.{name}`\n\n{text}\n"
    if dataclasses.is_dataclass(value):
        return f"### `{name}`\n\n```text\n{text}\n```\n\n{settings(value)}\n"
    if inspect.isclass(value):
        members = "\n".join(f"- `{member}`: {summary}" for member, summary in public_members(value))
        return f"### `{name}`\n\n```text\n{text}\n```\n\n{members}\n"
    return f"### `{name}{signature(value)}`\n\n```text\n{text}\n```\n"


def signature(value: Any) -> str:
    """The parameters with their defaults; types are in the docstring's words."""
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in inspect.signature(value).parameters.values()
    ]
    return str(inspect.Signature(parameters))


def settings(value: Any) -> str:
    """The fields of a dataclass with their defaults."""
    said = field_docstrings(value)
    return "\n".join(
        f"- `{field.name}`{default_of(field)}. {said.get(field.name, '')}".rstrip()
        for field in dataclasses.fields(value)
    )


def field_docstrings(value: type) -> dict[str, str]:
    """What stands below each field of a dataclass and of those that it extends."""
    said: dict[str, str] = {}
    for kind in reversed([kind for kind in value.__mro__ if dataclasses.is_dataclass(kind)]):
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr):
                said[ast.unparse(field.target)] = " ".join(str(ast.literal_eval(below.value)).split())
    return said


def default_of(field: dataclasses.Field[Any]) -> str:
    """The default of a field, if it has one."""
    if field.default is not dataclasses.MISSING:
        return f" = `{field.default!r}`"
    if callable(field.default_factory):
        made = field.default_factory()
        return f": `{type(made).__name__}`" if dataclasses.is_dataclass(made) else f" = `{made!r}`"
    return ""


def public_members(value: type) -> list[tuple[str, str]]:
    """Public methods and properties with the first sentence of their docstrings."""
    return [
        (name, inspect.cleandoc(inspect.getdoc(member) or "").splitlines()[0])
        for name, member in vars(value).items()
        if not name.startswith("_") and inspect.getdoc(member)
    ]


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
