"""Rewards: functions found by name and called as TRL calls them, or reward models by their directory.

Neither is believed before its numbers are checked.

A function written for TRL's trainers works as it stands: it is called once, with a row for each answer, as
`f(prompts=[…], completions=[…], **columns)`, and returns one number a row, or None for a row that is not its
own.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import pkgutil
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from difflib import get_close_matches
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from logratio.errors import BadReward, DataFault, LogratioError, ModelNotFound
from logratio.progress import say
from logratio.records import Completion, Prompt, Sample
from logratio.rollouts.reward_values import answer_location, checked_rewards

if TYPE_CHECKING:
    from logratio.packed_rows import TokenIds
    from logratio.policies.implicit_reward import ImplicitReward
    from logratio.policies.reward_scorer import RewardModel

RewardFunction = Callable[..., Any]

IMPLICIT = "implicit:"
"""Before two models: the policy, a comma, and its reference."""
FORM = "write module:function, such as logratio.rollouts.sentiment:sentiment"
TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")
MAX_NAMED = 3
"""Answers that are named each; of others their number is said."""
EXCLUDED_COLUMNS = ("prompt", "completion")


class Reward:
    """A reward function with a name; called with samples it gives a checked number, or None, for each answer.

    Args:
        name: what reports call it, such as `module:function`.
        function: plain, `async`, or any callable with TRL's signature.
    """

    def __init__(self, name: str, function: RewardFunction) -> None:
        self.name = name
        self.function = function

    def __call__(self, samples: Sequence[Sample]) -> list[list[float | None]]:
        """The reward of every answer of every sample, in their order; None where the reward has none for it.

        Text prompts come with texts as completions; message prompts come as lists of messages, each
        completion being a list of one assistant message. Further columns of a prompt's row are repeated for
        each of its answers; None stands where a row lacks a column that another has. `completion_ids` is
        given where the tokens of all answers are known. `trainer_state` is None, since nothing is trained.

        Raises:
            BadReward: the function raised, or did not return one finite number or None a row.
        """
        rows = [(sample, answer) for sample in samples for answer in sample.completions]
        values = checked_rewards(self._call(samples, rows), samples, name=self.name) if rows else []
        numbers = iter(values)
        return [list(islice(numbers, len(sample.completions))) for sample in samples]

    def identity(self) -> dict[str, str]:
        """What the reward computes, as hashes by name: the source of its module, and of the function.

        A function that no file holds says nothing.
        """
        function = inspect.unwrap(self.function) if callable(self.function) else self.function
        function = function if inspect.isroutine(function) else type(function)
        found = {}
        with suppress(OSError, TypeError):
            found["source of the function"] = _short_hash(inspect.getsource(function))
        with suppress(OSError, TypeError):
            path = inspect.getsourcefile(function)
            if path is not None:
                found["source of the module"] = _short_hash(Path(path).read_text(encoding="utf-8"))
        return found

    def require_all(self, samples: Sequence[Sample]) -> list[list[float]]:
        """The reward of every answer, where each must have one.

        Raises:
            BadReward: as when it is called, or an answer has none.
        """
        return [
            [self._required(samples, (number, place), value) for place, value in enumerate(values)]
            for number, values in enumerate(self(samples))
        ]

    def _required(self, samples: Sequence[Sample], place: tuple[int, int], value: float | None) -> float:
        if value is None:
            raise BadReward(
                f"{self.name} has no reward for an answer, and here each must have one",
                where=answer_location(samples, *place),
                action="return a number for every answer; leave out prompts that the reward does not suit",
            )
        return value

    def accepted_columns(self, columns: Iterable[str]) -> set[str]:
        """Those of a file's columns that the function is given."""
        offered = {name: None for name in columns if name not in EXCLUDED_COLUMNS}
        return set(_accepted(self.function, offered))

    def ensure_prompt(self, prompt: Prompt, *, max_new_tokens: int) -> None:
        """Raise a `DataFault` where no answer so long could be judged; a function reads any text."""

    def _call(self, samples: Sequence[Sample], rows: Sequence[tuple[Sample, Completion]]) -> Any:
        arguments = _accepted(self.function, reward_arguments(rows, name=self.name))
        try:
            returned = self.function(**arguments)
            return asyncio.run(returned) if inspect.iscoroutine(returned) else returned
        except LogratioError:
            raise
        except Exception as error:
            called = f"called with prompts 1 to {len(samples)} ({len(rows)} answers)"
            raise BadReward(
                f"{self.name} raised {type(error).__name__}: {error}",
                where=f"{_last_line(error)}, {called}",
                action="call the function on these rows by itself; --debug prints its traceback",
            ) from error


def reward_arguments(rows: Sequence[tuple[Sample, Completion]], *, name: str) -> dict[str, Any]:
    """The keyword arguments that TRL gives a reward function, one entry for each of `rows`.

    Raises:
        BadReward: a column has the name of one of TRL's own arguments.
    """
    columns = dict.fromkeys(
        key for sample, _ in rows for key in sample.columns if key not in EXCLUDED_COLUMNS
    )
    taken = sorted(set(columns) & set(TRL_ARGUMENTS))
    if taken:
        raise BadReward(
            f"{name} cannot be given the column {taken[0]!r}: reward functions have an argument of that name",
            action="rename the column in the file of prompts",
        )
    arguments: dict[str, Any] = {
        "prompts": [sample.prompt.to_json() for sample, _ in rows],
        "completions": [_as_completion(sample.prompt, answer) for sample, answer in rows],
        "trainer_state": None,
        "log_extra": _ignore,
        "log_metric": _ignore,
    }
    token_ids = [list(answer.token_ids) for _, answer in rows if answer.token_ids is not None]
    if len(token_ids) == len(rows):
        arguments["completion_ids"] = token_ids
    return arguments | {key: [sample.columns.get(key) for sample, _ in rows] for key in columns}


def _as_completion(prompt: Prompt, answer: Completion) -> str | list[dict[str, Any]]:
    if isinstance(prompt.content, str):
        return answer.text
    return [answer.turn.to_json()]


def _ignore(*_values: Any) -> None:
    """Stand in for TRL's hooks that log from within a reward function."""


class ModelReward(Reward):
    """A reward model as a reward; it reads how an answer ended, which a function is not told.

    Args:
        name: what reports call it.
        scorer: gives one number for each prompt with its answer.
    """

    def __init__(self, name: str, scorer: RewardModel | ImplicitReward) -> None:
        super().__init__(name, scorer.score)
        self.scorer = scorer
        self.num_unread = 0

    def accepted_columns(self, columns: Iterable[str]) -> set[str]:
        """None: a model reads prompts and answers."""
        return set()

    def ensure_prompt(self, prompt: Prompt, *, max_new_tokens: int) -> None:
        """Raise a `DataFault` where the model cannot read the prompt, or not with an answer so long."""
        self.scorer.ensure_prompt(prompt, max_new_tokens=max_new_tokens)

    def _call(self, samples: Sequence[Sample], rows: Sequence[tuple[Sample, Completion]]) -> Any:
        encoded = [self._encode(sample, answer) for sample, answer in rows]
        readable = [entry for entry in encoded if not isinstance(entry, DataFault)]
        faults = [entry for entry in encoded if isinstance(entry, DataFault)]
        if not readable:
            # No fault of single answers: it cannot read this template, or texts of this length.
            raise faults[0]
        self._warn_unreadable(faults)
        scores = iter(self.scorer.score_token_ids(readable))
        # It lies idle until the next batch is there, while others need the memory.
        from logratio.runtime.mapped_weights import release_pages

        release_pages(self.scorer.model)
        return [None if isinstance(entry, DataFault) else next(scores) for entry in encoded]

    def identity(self) -> dict[str, str]:
        """What tokenizer and template read texts; the weights are in the name."""
        from logratio.models import tokenisation

        return {"tokenizer": tokenisation.tokenizer_fingerprint(self.scorer.tokenizer)}

    def _encode(self, sample: Sample, answer: Completion) -> tuple[TokenIds, TokenIds] | DataFault:
        try:
            return self.scorer.encode(sample.prompt, answer, where=sample.source or "an answer")
        except DataFault as fault:
            return fault

    def _warn_unreadable(self, faults: Sequence[DataFault]) -> None:
        """Name answers that the model cannot read, the first ones of a run, and how many there are so far."""
        warn = self.num_unread < MAX_NAMED
        self.num_unread += len(faults)
        for fault in faults[:MAX_NAMED] if warn else ():
            why = f"{fault.name}: {fault.what} ({fault.where})"
            say(f"{self.name} cannot read an answer, which has no reward: {why}")
        if faults and warn and self.num_unread >= MAX_NAMED:
            say(f"{self.name}: further answers that it cannot read are counted")


def _short_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _accepted(function: RewardFunction, arguments: dict[str, Any]) -> dict[str, Any]:
    """Leave out what a function without `**kwargs` does not name."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # a callable of another language has no signature to read
        return arguments
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return arguments
    return {key: value for key, value in arguments.items() if key in parameters}


def load_reward(spec: str, *, device: str = "cpu") -> Reward:
    """Find the reward that `spec` names; the current directory counts as a place for modules.

    Args:
        spec: `module:function`, the module's name with dots; the directory of a reward model; or
            `implicit:POLICY,REFERENCE`, how much more probable answers are to one model than to the other.
        device: where models compute.

    Returns:
        The reward: called with samples it gives a number, or None, for every answer.

    Raises:
        BadReward: not of that form, no such module or function (with the nearest names), a module that
            fails when it is imported, something that cannot be called, or a directory without a reward model.
        ChatTemplateMismatch: the reward model's tokenizer has no way to write a conversation.
        UnsafeArtifact, SpecialTokenTrouble, BadConfig: the reward model cannot be opened safely.
    """
    if spec.startswith(IMPLICIT):
        return _load_implicit(spec, device=device)
    module_name, _, attribute = spec.partition(":")
    if Path(spec).is_dir():
        return _load_model(spec, device=device)
    if not module_name or not attribute or "/" in module_name or module_name.endswith(".py"):
        raise BadReward(
            f"{spec!r} does not name a reward function", where="--reward", action=_suggest_form(spec)
        )
    module = _import(module_name, spec)
    found = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BadReward(
                f"{module_name} has no function {attribute!r}",
                where=f"--reward {spec}, in {getattr(module, '__file__', None) or module_name}",
                action=_nearest(part, _public_callables(found), "it has"),
            )
        found = getattr(found, part)
    if not callable(found):
        raise BadReward(f"{spec} is a {type(found).__name__}, not a function", where="--reward", action=FORM)
    return Reward(spec, found)


def _load_model(spec: str, *, device: str) -> Reward:
    from logratio.models.reward_model import load_reward_model
    from logratio.policies.reward_scorer import RewardModel

    try:
        loaded = load_reward_model(spec, device=device)
    except ModelNotFound as fault:
        raise BadReward(
            f"the directory holds no reward model: {fault.what}",
            where=f"--reward {spec}",
            action=f"{fault.action}; or {FORM}",
        ) from fault
    for note in loaded.notes:
        say(f"note: {spec}: {note}")
    # By its weights, so that it is the same judge wherever its directory is.
    return ModelReward(f"reward model {loaded.fingerprint}", RewardModel(loaded.model, loaded.tokenizer))


def _load_implicit(spec: str, *, device: str) -> Reward:
    from logratio.models.loading import load
    from logratio.policies.implicit_reward import ImplicitReward
    from logratio.policies.language import LanguagePolicy

    sources = spec.removeprefix(IMPLICIT).split(",")
    if len(sources) != 2 or not all(sources):
        raise BadReward(
            f"{spec!r} does not name two models", where="--reward", action="write implicit:POLICY,REFERENCE"
        )
    loaded = [load(source, device=device) for source in sources]
    # Each answer as a plain sequence, which is right for every architecture.
    policies = [LanguagePolicy(entry.model, entry.tokenizer, layout="unpacked") for entry in loaded]
    name = f"implicit reward of {loaded[0].fingerprint} against {loaded[1].fingerprint}"
    return ModelReward(name, ImplicitReward(*policies))


def _suggest_form(spec: str) -> str:
    path, _, attribute = spec.partition(":")
    if not path.endswith(".py"):
        return FORM
    return (
        f"write {Path(path).stem}:{attribute or 'function'}, from the directory that {Path(path).name} is in"
    )


def _import(module_name: str, spec: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(module_name)
    except LogratioError:
        raise
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_failed(module_name, spec, error) from error
        parent, _, leaf = error.name.rpartition(".")
        raise BadReward(
            f"there is no module {error.name!r}",
            where=f"--reward {spec}; looked in {here} and in the installed packages",
            action=_nearest(leaf, _module_names(parent), "there is"),
        ) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(module_name, spec, error) from error


def _import_failed(module_name: str, spec: str, error: BaseException) -> BadReward:
    at = f"{error.filename}:{error.lineno}" if isinstance(error, SyntaxError) else _last_line(error)
    return BadReward(
        f"the module {module_name} cannot be imported: {type(error).__name__}: {error}",
        where=f"{at}, by --reward {spec}",
        action=f"make `python -c 'import {module_name}'` work first",
    )


def _last_line(error: BaseException) -> str:
    """Where an error was raised, the import system's own lines aside."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<frozen")]
    return f"{frames[-1].filename}:{frames[-1].lineno}"


def _module_names(parent: str) -> list[str]:
    # A module that is no package has no path, and nothing in it to propose.
    paths = list(getattr(importlib.import_module(parent), "__path__", ())) if parent else None
    return [module.name for module in pkgutil.iter_modules(paths)]


def _public_callables(holder: Any) -> list[str]:
    return [
        name for name in dir(holder) if not name.startswith("_") and callable(getattr(holder, name, None))
    ]


def _nearest(name: str, candidates: Sequence[str], begin: str) -> str:
    near = get_close_matches(name, candidates, n=3, cutoff=0.5)
    return f"{begin} {', '.join(near)}; {FORM}" if near else FORM
