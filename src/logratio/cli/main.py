"""The door: finds the command, parses its flags, prints a fault in three lines."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import warnings
from pathlib import Path

from logratio.errors import BadConfig, LogratioError, OutOfMemory
from logratio.version import __version__

COMMANDS = {
    "quickstart": (
        "logratio.cli.quickstart",
        "end-to-end example on the embedded model, into runs/quickstart",
    ),
    "sample": ("logratio.cli.sample", "answers to prompts, with their exact log-probabilities"),
    "label": ("logratio.cli.label", "answers into comparisons, by a reward"),
    "annotate serve": ("logratio.cli.annotate.serve", "a page on which people compare answers"),
    "annotate agreement": (
        "logratio.cli.annotate.agreement",
        "how far people agree, with others and themselves",
    ),
    "annotate export": ("logratio.cli.annotate.export", "verdicts into files that train"),
    "rate": ("logratio.cli.rate", "strengths of models from comparisons, with intervals"),
    "check": ("logratio.cli.check", "what is wrong with a file of comparisons, row by row"),
    "train sft": ("logratio.cli.train.sft", "supervised fine-tuning on the preferred answers"),
    "train dpo": ("logratio.cli.train.dpo", "direct preference optimisation"),
    "train reinforce": ("logratio.cli.train.reinforce", "the policy gradient, from a reward"),
    "train ppo": ("logratio.cli.train.ppo", "proximal policy optimisation, from a reward"),
    "train reward": ("logratio.cli.train.reward", "a reward model from comparisons"),
    "control ppo": ("logratio.cli.control.ppo", "proximal policy optimisation in a Gymnasium environment"),
    "control reinforce": ("logratio.cli.control.reinforce", "the policy gradient in a Gymnasium environment"),
    "evaluate": ("logratio.cli.evaluate", "policy against reference on held-out prompts"),
    "report": ("logratio.cli.report", "report.html and report.json from a run directory"),
    "chat": ("logratio.cli.chat", "talk to a model, or to two in turn"),
    "verify": ("logratio.cli.verify", "every estimator and algorithm against exact answers"),
}
"""Every command: its module, imported only when it is called, and what it does."""
CONFIG_HELP = """--config FILE.yaml takes settings from a file; flags that are given hold before it. Every run
writes such a file, config.yaml, which repeats it."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit status: 0, 2 for a named fault, 1 where the command says so."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    _prepare_libraries()
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except LogratioError as fault:
        if debug:
            traceback.print_exc()
        print(fault, file=sys.stderr)
        return fault.exit_status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader of a pipe (`| head`) has gone: nothing is wrong, and nobody is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            traceback.print_exc()
        if (named := _named_fault(error)) is not None:
            print(named, file=sys.stderr)
            return named.exit_status
        print(
            f"{type(error).__name__}: {error}\n"
            "  do:    this is a bug in logratio; run again with --debug and report what it prints",
            file=sys.stderr,
        )
        return 2


def _named_fault(error: Exception) -> LogratioError | None:
    """The fault that a library's error is, wherever it comes from: memory that is not there."""
    message = str(error)
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not named and not any(words in message for words in ("can't allocate memory", "not enough memory")):
        return None
    return OutOfMemory(
        f"no memory left: {(message.strip().splitlines() or ['nothing more is known'])[0][:200]}",
        action="compute fewer tokens at a time (--row-tokens, --batch-size), or take a smaller model",
    )


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0
    if words[0] in ("-V", "--version"):
        print(f"logratio {__version__}")
        return 0
    name, rest = _split_command(words)
    rest, config = _split_config(rest)
    module = importlib.import_module(COMMANDS[name][0])
    import tyro

    default = None
    if config is not None:
        from logratio.config_file import read_settings

        default = read_settings(config, name, module.Arguments, missing=tyro.MISSING)
    elif hasattr(module, "default"):
        # Some commands know more than their flags' defaults: the settings of the environment that is named.
        default = module.default(rest)
    try:
        parsed = tyro.cli(
            module.Arguments,
            args=rest,
            prog=f"logratio {name}",
            description=f"{module.__doc__}\n{CONFIG_HELP}",
            **({} if default is None else {"default": default}),
        )
    except SystemExit as leaving:
        return int(leaving.code or 0)
    return int(module.run(parsed) or 0)


def _split_config(words: list[str]) -> tuple[list[str], Path | None]:
    """The flags without `--config FILE`, and the file."""
    rest = list(words)
    for index, word in enumerate(words):
        if word == "--config" or word.startswith("--config="):
            _, equals, value = word.partition("=")
            if not equals and index + 1 == len(words):
                raise BadConfig("--config names no file", where="--config", action="give a YAML file")
            del rest[index : index + (1 if equals else 2)]
            return rest, Path(value if equals else words[index + 1])
    return rest, None


def _split_command(words: list[str]) -> tuple[str, list[str]]:
    for length in (2, 1):
        name = " ".join(words[:length])
        if name in COMMANDS:
            return name, words[length:]
    import difflib

    name = " ".join(words[:2]) if any(key.startswith(words[0] + " ") for key in COMMANDS) else words[0]
    near = difflib.get_close_matches(name, COMMANDS, n=1, cutoff=0.4)
    hint = f"perhaps you meant `logratio {near[0]}`" if near else "`logratio --help` lists the commands"
    raise BadConfig(f"there is no command {name!r}", action=hint)


def _overview() -> str:
    rows = "\n".join(f"  logratio {name:<18} {what}" for name, (_, what) in COMMANDS.items())
    return (
        f"logratio {__version__}: from comparisons or a reward to a better language model, and a report\n"
        f"that shows how much better and why to believe it.\n\n{rows}\n\n"
        "  logratio COMMAND --help explains its flags. --config FILE.yaml takes them from a file.\n"
        "  --debug adds a traceback to an error.\n"
        "  Begin with `logratio quickstart`."
    )


def _prepare_libraries() -> None:
    """Settings that libraries read when they are first imported, which is after this.

    Their bars and advice are kept out of the output. And threads that wait for one another give up the
    processor soon: beside one other busy program on two cores, libgomp's default of spinning made small
    matrix products twelve times slower, this three times, and alone there was no difference to be seen.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore", FutureWarning)


if __name__ == "__main__":
    sys.exit(main())
