"""What the quickstart's stages share: the names of its files, its settings and the model in memory."""

from __future__ import annotations

import gc
import inspect
from pathlib import Path
from typing import Any

import torch

from logratio.models.loading import load
from logratio.policies.language import LanguagePolicy
from logratio.progress import say
from logratio.recipes.quickstart.config import QuickstartConfig
from logratio.report.collect import read_object
from logratio.rollouts.rewards import Reward
from logratio.run_directory import hash_file, write_json

PROMPTS, HELD_OUT, TRAINING_PROMPTS = "prompts.jsonl", "held_out.jsonl", "training_prompts.json"
COMPLETIONS, COMPARISONS = "completions.jsonl", "comparisons.jsonl"
SFT, DPO, REWARD, PPO, EVALUATION = "sft", "dpo", "reward", "ppo", "evaluation"
BEST_OF_N, UPPER_BOUND, JUDGED = "best_of_n.jsonl", "upper_bound.jsonl", "judged.json"
COUNTS = "counts.json"
START = "start"


class QuickstartContext:
    """Settings, reward and the one model that is in memory.

    Args:
        settings: the flags.
        source: the model that training starts from.
        reward: what judges.
    """

    def __init__(self, settings: QuickstartConfig, *, source: str, reward: Reward) -> None:
        self.settings, self.source, self.reward = settings, source, reward
        trained = {name: str(settings.out / name / "model") for name in (SFT, DPO, REWARD, PPO)}
        self.sources = {START: source} | trained
        self._held = ""
        self._policy: LanguagePolicy | None = None
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)

    @property
    def reward_identity(self) -> dict[str, str]:
        """The reward's name and the hash of the file it is written in, where that can be found."""
        try:
            file = inspect.getsourcefile(inspect.unwrap(self.reward.function))
        except TypeError:
            file = None
        return {"name": self.reward.name} | ({"sha256": hash_file(Path(file))} if file else {})

    def policy(self, name: str) -> LanguagePolicy:
        """The model of that name: the one in memory if it is that, else loaded in its place."""
        if self._policy is None or self._held != name:
            self.release()
            loaded = load(self.sources[name], device=self.settings.device)
            for note in loaded.notes:
                say(f"note: {note}")
            self._policy, self._held = LanguagePolicy(loaded.model, loaded.tokenizer), name
        return self._policy

    def becomes(self, name: str) -> None:
        """Training made the model in memory into that of another name."""
        self._held = name

    def release(self) -> None:
        """Let go of the model in memory, and of what a stage left behind.

        Modules refer to one another, so that only the collector can.
        """
        self._policy = None
        gc.collect()

    def count(self, name: str, counts: dict[str, Any]) -> None:
        """Keep what became of every row in a stage, for the report."""
        path = self.settings.out / COUNTS
        write_json(path, read_object(path) | {name: counts})


def identify(source: str | Path | None) -> Any:
    """What tells one file or directory from another: its hash, or names, sizes and times of what is in it."""
    if source is None or not Path(source).exists():
        return source
    path = Path(source)
    if path.is_file():
        return hash_file(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return [[str(file.relative_to(path)), file.stat().st_size, file.stat().st_mtime_ns] for file in files]
