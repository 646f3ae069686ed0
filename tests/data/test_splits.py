"""Splits: one prompt one side, whatever the order and the other rows."""

from __future__ import annotations

import random

import pytest

from logratio.data.splits import ensure_disjoint, split_by_prompt
from logratio.errors import BadConfig, SplitLeak
from logratio.records import Message, Prompt


def split(prompts, *, held_out=0.3, seed=0):
    return split_by_prompt(prompts, lambda prompt: prompt, held_out=held_out, seed=seed)


PROMPTS = [Prompt(f"prompt {number}") for number in range(1000)]


def test_every_item_stands_on_one_side_and_in_order():
    train, held_out = split(PROMPTS)
    assert sorted([*train, *held_out], key=PROMPTS.index) == PROMPTS
    assert [*train] == sorted(train, key=PROMPTS.index)
    assert 250 < len(held_out) < 350


def test_answers_to_one_prompt_stay_together_in_every_form():
    items = [(form, n) for n in range(50) for form in (f"p {n}", f" p {n}\n")]
    items += [((Message(role="user", content=f"p {n}"),), n) for n in range(50)]
    train, held_out = split_by_prompt(items, lambda item: Prompt(item[0]), held_out=0.5, seed=1)
    assert train
    assert held_out
    assert not {n for _, n in train} & {n for _, n in held_out}


def test_the_split_does_not_depend_on_order_or_company():
    _, held_out = split(PROMPTS)
    shuffled = random.Random(0).sample(PROMPTS, len(PROMPTS))
    assert set(split(shuffled)[1]) == set(held_out)
    assert split(PROMPTS[:100])[1] == [prompt for prompt in PROMPTS[:100] if prompt in held_out]
    assert set(split(PROMPTS, held_out=0.4)[1]) > set(held_out)


def test_the_split_is_the_same_on_every_machine():
    _, held_out = split(PROMPTS[:20])
    assert [PROMPTS.index(prompt) for prompt in held_out] == [1, 2, 6, 7, 9, 10, 11, 13, 15]


def test_another_seed_gives_another_split():
    assert split(PROMPTS)[1] != split(PROMPTS, seed=1)[1]


def test_nothing_held_out():
    assert split(PROMPTS, held_out=0) == (PROMPTS, [])


@pytest.mark.parametrize("held_out", [-0.1, 1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(held_out):
    with pytest.raises(BadConfig):
        split(PROMPTS, held_out=held_out)


def test_a_prompt_on_both_sides_is_a_leak():
    ensure_disjoint(PROMPTS[:10], PROMPTS[10:])
    with pytest.raises(SplitLeak, match=r"^SplitLeak: 1 prompts .* 'user: prompt 3'"):
        ensure_disjoint(PROMPTS[:10], [Prompt((Message(role="user", content="prompt 3 "),)), PROMPTS[20]])


def test_a_split_never_leaks():
    ensure_disjoint(*split(PROMPTS))
