"""Rewards that return None for answers that are not theirs, as TRL's may; and answers that none judges."""

import math
from dataclasses import replace

import pytest
import torch

from logratio.errors import BadReward
from logratio.records import Completion, Prompt, Sample
from logratio.rollouts.reward_shaping import WeightedReward, monitor, rewarded_prompts, weighted_sum
from logratio.rollouts.rewards import Reward
from rollouts.test_collector import make, vowels


def samples(*rows):
    return [
        Sample(
            prompt=Prompt(f"question {n}"),
            completions=tuple(Completion(text=text) for text in texts),
            columns={},
            source=f"prompts.jsonl:{n + 1}",
        )
        for n, texts in enumerate(rows)
    ]


TWO = samples(("a", "bb"), ("ccc", "dddd"))


def given(name, *values, weight=1.0):
    return WeightedReward(name=name, reward=Reward(name, lambda **_: values), weight=weight)


def test_none_is_no_reward_of_the_function_and_no_fault():
    assert Reward("r", lambda **_: [1, None, None, 2.5])(TWO) == [[1.0, None], [None, 2.5]]
    with pytest.raises(BadReward) as fault:
        Reward("r", lambda **_: [1, None, None, 2.5]).require_all(TWO)
    assert fault.value.where == "prompts.jsonl:1, answer 2 (“question 0”)"
    assert Reward("r", lambda **_: [1, 2, 3, 4]).require_all(TWO) == [[1.0, 2.0], [3.0, 4.0]]


@pytest.mark.parametrize(
    "returned", ["abcd", b"abcd", {1.0, 2.0, 3.0, 4.0}, {"a": 1, "b": 2, "c": 3, "d": 4}]
)
def test_what_keeps_no_order_is_no_list_of_rewards(returned):
    with pytest.raises(BadReward, match=f"returned {type(returned).__name__}, not a list"):
        Reward("r", lambda **_: returned)(TWO)


def test_a_sum_leaves_none_out_and_has_none_where_all_are():
    """As TRL: Σ_k w_k r_k over the rewards that are not None, each reward's mean over the answers it has."""
    total, means = weighted_sum(
        TWO,
        [
            given("math", 1.0, None, 3.0, None, weight=2.0),
            given("code", 10.0, 20.0, None, None),
            given("nothing", None, None, None, None),
        ],
    )
    assert total[:3].tolist() == [12.0, 20.0, 6.0]
    assert math.isnan(total[3])
    assert means == {"reward/math": 2.0, "reward/code": 15.0}
    assert monitor(TWO, [given("math", 1.0, None, 3.0, None, weight=2.0)]) == {"monitored/math": 2.0}


def test_prompts_are_kept_whole_or_not_at_all():
    nan = math.nan
    three = samples(("a", "b"), ("c", "d"), ("e", "f"))
    earned = torch.tensor([1.0, 2.0, 3.0, nan, 5.0, 6.0])
    assert rewarded_prompts(three, earned) == [0, 2]
    assert rewarded_prompts(three, earned, torch.tensor([])) == [0, 2]
    # Whose greedy answer has none has no baseline.
    assert rewarded_prompts(three, earned, torch.tensor([0.0, 0.0, nan])) == [0]
    with pytest.raises(BadReward) as fault:
        rewarded_prompts(three, torch.full((6,), nan))
    assert "none of the 3 prompts" in fault.value.what
    assert "prompts.jsonl:1" in fault.value.where


def without(*prompts):
    """The reward of vowels, without one for some prompts."""

    def reward(own):
        return [
            [None] * len(one.completions) if str(one.prompt) in prompts else values
            for one, values in zip(own, vowels(own), strict=True)
        ]

    return [WeightedReward(name="vowels", reward=reward)]


@pytest.mark.parametrize("greedy", [False, True])
def test_a_prompt_without_reward_is_as_if_it_were_not_there(capsys, greedy):
    collector, other = make(), make()
    for one in (collector, other):
        one.greedy = greedy
    collector.rewards = without("a good day")
    collector.rows = [
        replace(row, source=f"prompts.jsonl:{number}") for number, row in enumerate(collector.rows, start=1)
    ]
    for step in range(2):
        found, expected = collector.collect(step, [0, 1, 2]), other.collect(step, [0, 2])
        assert found.items == expected.items
        for name in ("rewards", "logprobs", "mask", "discounts"):
            assert torch.equal(getattr(found.trajectories, name), getattr(expected.trajectories, name))
        assert found.metrics.pop("prompts_without_reward") == 1
        assert found.metrics == pytest.approx(expected.metrics)
        if greedy:
            assert torch.equal(found.greedy_returns, expected.greedy_returns)
            assert len(found.greedy_returns) == 8
    shown = capsys.readouterr().err
    assert shown.count("no reward for prompts.jsonl:2, answer 1 (“a good day”)") == 1


def test_an_update_without_any_reward_ends_by_name():
    collector = make()
    collector.rewards = without("the cat", "I like")
    with pytest.raises(BadReward, match="none of the 2 prompts of this update has a reward"):
        collector.collect(0, [0, 2])
