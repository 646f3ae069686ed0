"""DPO, PPO and best-of-n side by side: what `methods` and `frontier` in report.json hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from logratio.errors import BadConfig
from logratio.evaluation.best_of_n import BestOfN
from logratio.evaluation.model_comparison import POLICY, REFERENCE, EvaluationResult
from logratio.evaluation.upper_bound import BoundPoint
from logratio.evaluation.win_rate import win_rate
from logratio.stats.bootstrap import RESAMPLES, difference_interval

PPO = "ppo"
"""What a stage that PPO trained is called."""
STAGES = {"dpo": POLICY, "ppo": PPO}
"""Of each trained method the stage that it made."""


def describe_methods(
    evaluation: EvaluationResult,
    best: BestOfN | None = None,
    picked: Sequence[float] = (),
    *,
    resamples: int = RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """Win rate against the reference, reward and KL of each method: `methods` of report.json.

    Args:
        evaluation: of a policy trained with DPO, and of a stage `ppo` where there is one.
        best: what best-of-n gains on the same prompts, at the one n that is compared.
        picked: gold rewards of the answers that `pick_best` chose at that n, in the order of the
            evaluation's prompts; they are what the win rate of best-of-n is counted from.
        resamples: draws of the bootstrap.

    Returns:
        Of `dpo`, `ppo` and `best_of_n`, those that are there: `{"win_rate": {"value", "low", "high", "n", …},
        "reward", "reward_interval", "kl", "kl_interval", "reward_difference": {"value", "low", "high"}}`: KL
        in nats per sequence, the gain over the reference paired by prompt. `best_of_n` has its `n` as well,
        and `"kl_is_bound": true` in the place of an interval: its KL is at most `kl`.

    Raises:
        BadConfig: there is not one picked answer to each prompt.
    """
    stages = {stage.name: stage.to_json() for stage in evaluation.stages}
    rates = {contest.name: contest for contest in evaluation.contests if contest.against == REFERENCE}
    methods = {}
    for method, stage in STAGES.items():
        if stage in stages:
            measurements = {
                key: stages[stage][key] for key in ("reward", "reward_interval", "kl", "kl_interval")
            }
            methods[method] = {
                "win_rate": rates[stage].win_rate.to_json(),
                **measurements,
                "reward_difference": rates[stage].reward_difference.to_json(),
            }
    if best is not None:
        methods["best_of_n"] = _describe_best(evaluation, best, picked, resamples)
    return methods


def describe_frontier(
    best: Sequence[BestOfN], bound: Sequence[BoundPoint], *, prompts: int, samples_a_prompt: int
) -> dict[str, Any]:
    """What the picture of reward against KL draws beside the stages: `frontier` of report.json.

    Args:
        best: what `best_of_n_curve` gave.
        bound: what `upper_bound` gave.
        prompts: prompts that the bound was estimated on.
        samples_a_prompt: the reference's answers to each of them.
    """
    return {
        "best_of_n": [point.to_json() for point in best],
        "upper_bound": [point.to_json() for point in bound],
        "prompts": prompts,
        "samples_a_prompt": samples_a_prompt,
    }


def _describe_best(
    evaluation: EvaluationResult, best: BestOfN, picked: Sequence[float], resamples: int
) -> dict[str, Any]:
    reference = evaluation.stages[0].rewards
    if len(picked) != len(reference):
        raise BadConfig(
            f"best of {best.n} was picked on {len(picked)} prompts, the evaluation has {len(reference)}",
            action="pick one answer to each of the evaluation's prompts, in their order",
        )
    rate = win_rate(picked, reference, seed=evaluation.seed, resamples=resamples)
    difference = difference_interval(picked, reference, seed=evaluation.seed, resamples=resamples)
    return {
        "n": best.n,
        "win_rate": rate.to_json(),
        "reward": best.reward.value,
        "reward_interval": [best.reward.low, best.reward.high],
        "kl": best.kl_bound,
        "kl_is_bound": True,
        "reward_difference": difference.to_json(),
    }
