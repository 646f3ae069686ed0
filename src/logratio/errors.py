"""Named faults: each says what is wrong, where, and what to do about it.

The command line prints these three sentences and exits with the fault's status; it never prints a
traceback unless `--debug` asks for one. Library users catch `LogratioError` or a fault by its name.
"""

from __future__ import annotations


class LogratioError(Exception):
    """The root of all named faults.

    Args:
        what: the fault, with the offending value.
        where: file and line, step, pair or flag; empty where there is no such place.
        action: what the reader can do now.
    """

    exit_status = 2

    def __init__(self, what: str, *, where: str = "", action: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.action = action

    @property
    def name(self) -> str:
        """The fault's name, as reports and the command line show it."""
        return type(self).__name__

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.action:
            lines.append(f"  do:    {self.action}")
        return "\n".join(lines)


# --- input files ------------------------------------------------------------------------------------


class DataFault(LogratioError):
    """Something in an input file; `where` names the file and the physical line."""


class FileNotReadable(DataFault):
    """The file is not there, is empty, is a directory, or has an ending that is not understood."""


class BadJsonLine(DataFault):
    """A line is not JSON."""


class RowNotObject(DataFault):
    """A line is JSON, but a list, a string or null instead of an object."""


class AmbiguousWinner(DataFault):
    """Who won can be read in two ways, and nothing in the file tells which is meant."""


class BadEncoding(DataFault):
    """A line is not UTF-8, or has a NUL byte or a lone surrogate; or the file is UTF-16."""


class MissingColumn(DataFault):
    """A row lacks a column that it needs."""


class WrongType(DataFault):
    """A column has a value of the wrong type."""


class EmptyAnswer(DataFault):
    """An answer is empty or nothing but white space."""


class IdenticalPair(DataFault):
    """Chosen and rejected are the same answer."""


class Tie(DataFault):
    """Neither answer is preferred, where one must be."""


class ContradictoryLabels(DataFault):
    """A over B and B over A, with no majority for either."""


class PromptNotShared(DataFault):
    """The two transcripts of a pair do not have the same prompt."""


class PromptTooLong(DataFault):
    """The prompt leaves no room for an answer."""


class TokenWithoutEmbedding(DataFault):
    """A token that the tokenizer writes and for which the model has no row of embeddings."""


class BadRoles(DataFault):
    """Messages that are empty, of unknown role, in the wrong order, or that do not end as they must."""


class UnsupportedContent(DataFault):
    """A message holds something that is not text, such as an image."""


class PromptFormatMismatch(DataFault):
    """A prompt was rendered otherwise when its answers were sampled than it is to be now."""


class ChatTemplateMismatch(DataFault):
    """The chat template's prompt is not the beginning of its prompt with answer."""


class BoundaryMismatch(DataFault):
    """The tokens of the prompt are not the beginning of the tokens of prompt and answer."""


class ForeignTokens(DataFault):
    """The tokens recorded with an answer are not those of its text under this tokenizer."""


class SpecialTokenTrouble(DataFault):
    """A doubled begin token, no end token, or an end token that the loss would never see."""


class SplitLeak(DataFault):
    """The same prompt stands in both training and held-out data."""


class UnusableRows(DataFault):
    """Rows cannot be used, and more of them than may be left out; with --strict, none may be."""


class TooFewLabels(DataFault):
    """Not enough usable rows to train on."""


# --- configuration and files of a run ---------------------------------------------------------------


class BadConfig(LogratioError):
    """A setting that is unknown, out of range or at odds with another."""


class MissingExtra(LogratioError):
    """An optional package is needed and not installed."""


class ModelNotFound(LogratioError):
    """The model's path or name leads to nothing that can be loaded."""


class EnvironmentNotFound(LogratioError):
    """No environment is registered under this name."""


class UnsupportedSpace(LogratioError):
    """Observations or actions of a kind that no policy here can take or give."""


class UnsafeArtifact(LogratioError):
    """A pickle, remote code or an unpinned revision: refused, with no fallback."""


class ResumeMismatch(LogratioError):
    """What is resumed differs from what was begun."""


class CheckpointCorrupt(LogratioError):
    """A checkpoint's file does not have the checksum that was written with it."""


class UnknownFormatVersion(LogratioError):
    """A file was written in a format that this version does not know."""


class DiskFull(LogratioError):
    """No room for what is to be written."""


class NotWritable(LogratioError):
    """The run directory cannot be written to."""


class RunDirBusy(LogratioError):
    """Another process works in this run directory."""


class RunExists(LogratioError):
    """The run directory holds another run already."""


# --- people who compare -----------------------------------------------------------------------------


class LeaseConflict(LogratioError):
    """A pair is not this person's to judge now: somebody else has it, or has judged it."""


class DuplicateVote(LogratioError):
    """A verdict on what has one already; the one that stands is kept."""


class DatabaseBusyOrBroken(LogratioError):
    """The database of labels is held by another program, is damaged, or is none."""


class HostileRequest(LogratioError):
    """A request that the page itself would not make; nothing was changed."""


class PortBusy(LogratioError):
    """Another program listens at this port."""


class InputChanged(LogratioError):
    """A file whose pairs are in a database holds something else now."""


class UndecidedAsLabel(LogratioError):
    """What nobody decided was about to be written as a preference."""


# --- while running ----------------------------------------------------------------------------------


class BadReward(LogratioError):
    """A reward function that cannot be found, or that returned something other than one number a row."""


class RewardDegenerate(LogratioError):
    """All rewards are equal: nothing can be learned from them."""


class EnvironmentFault(LogratioError):
    """An environment raised, or gave what it must not; a checkpoint holds all up to the last update."""


class NonFiniteLoss(LogratioError):
    """The loss is NaN or infinite; the weights were not changed."""


class NonFiniteGradient(LogratioError):
    """The gradient is NaN or infinite; the weights were not changed."""


class NonFiniteLogits(LogratioError):
    """The model's logits are NaN or infinite; no token can be drawn from them."""


class PolicyRunaway(LogratioError):
    """KL, length or repetition left their limits: the run stopped, and its best checkpoint is kept."""


class OutOfMemory(LogratioError):
    """The machine has no memory left for this batch."""


class ReferenceAliased(LogratioError):
    """Policy and reference share storage, or do not have the same vocabulary."""


class InvariantViolated(LogratioError):
    """Something that must hold does not: `invariant` names it, `value` is what was found.

    Args:
        invariant: the invariant's name, as in `logratio.training.invariants`.
        value: the value found.
        what: one sentence.
        where: step, row or pair.
        action: what the reader can do now.
    """

    def __init__(self, invariant: str, value: float, what: str, *, where: str = "", action: str = "") -> None:
        super().__init__(f"[{invariant}] {what}", where=where, action=action)
        self.invariant = invariant
        self.value = value


class Interrupted(LogratioError):
    """The run was asked to stop; it saved a checkpoint first.

    Args:
        signal_number: 2 for Ctrl-C, 15 for SIGTERM; the exit status is 128 more.
    """

    def __init__(self, signal_number: int, *, where: str = "", action: str = "") -> None:
        super().__init__("stopped on request, a checkpoint is saved", where=where, action=action)
        self.exit_status = 128 + signal_number
