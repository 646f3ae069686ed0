"""Packed rows against each answer alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.kernels.block_diagonal_sdpa import packed_inputs
from logratio.kernels.packing import assign_rows, pack
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy, answer_lengths
from tiny_models import exact_llama, random_groups

VOCABULARY = 50


@settings(derandomize=True, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=40), st.integers(1, 70))
def test_every_item_has_one_place_and_no_row_overflows(lengths, capacity):
    rows = assign_rows(lengths, capacity=capacity)
    assert sorted(item for row in rows for item in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[item] for item in row) <= capacity or len(row) == 1


def test_a_row_as_worked_by_hand():
    row = pack([AnswerGroup((10, 11), ((20, 21, 0), (30, 0))), AnswerGroup((12,), ((0,),))])
    assert row.input_ids.tolist() == [[10, 11, 20, 21, 30, 12]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 2, 0]]
    assert row.source_positions.tolist() == [1, 2, 3, 1, 4, 5]
    assert row.target_ids.tolist() == [20, 21, 0, 30, 0, 0]
    assert row.answer_index.tolist() == [0, 0, 0, 1, 1, 2]
    assert row.num_answers == 3
    seen = [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    assert packed_inputs(row)["attention_mask"][0, 0].int().tolist() == seen


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("num_answers", [1, 2, 4])
def test_packed_equals_one_answer_at_a_time_to_1e_10(tied, num_answers):
    """The must-show: log-probabilities and gradients in float64, prompts shared and rows packed."""
    groups = random_groups(7, vocab_size=VOCABULARY, num_answers=num_answers)
    model = exact_llama(VOCABULARY, tied=tied)
    outer = torch.randn(7 * num_answers, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    shared = LanguagePolicy(model, None)
    packed = shared.sequence_logprobs(shared.pack(groups))
    packed_gradient = torch.autograd.grad(packed, list(model.parameters()), outer)

    alone = []
    for group in groups:
        for answer in group.answers:
            tokens = torch.tensor([[*group.prompt, *answer]])
            logprobs = model(input_ids=tokens).logits[0, :-1].log_softmax(-1)
            scored = logprobs.gather(-1, tokens[0, 1:, None])[:, 0]
            alone.append(scored[len(group.prompt) - 1 :].sum())
    alone = torch.stack(alone)
    alone_gradient = torch.autograd.grad(alone, list(model.parameters()), outer)

    assert (packed - alone).abs().max() < 1e-10
    for left, right in zip(packed_gradient, alone_gradient, strict=True):
        assert (left - right).abs().max() < 1e-10


@pytest.mark.parametrize("max_tokens", [1, 30, 60, 1000])
def test_the_division_into_rows_changes_nothing(max_tokens):
    groups = random_groups(9, vocab_size=VOCABULARY)
    policy = LanguagePolicy(exact_llama(VOCABULARY), None)
    whole = policy.sequence_logprobs(policy.pack(groups)).reshape(-1, 2)
    for part, rows in policy.micro_batches(groups, max_tokens=max_tokens):
        assert (policy.sequence_logprobs(rows).reshape(-1, 2) - whole[part]).abs().max() < 1e-10


def test_apart_equals_shared_and_knows_lengths():
    groups = random_groups(5, vocab_size=VOCABULARY)
    model = exact_llama(VOCABULARY)
    shared, apart = LanguagePolicy(model, None), LanguagePolicy(model, None, layout="unpacked")
    left, right = shared.pack(groups), apart.pack(groups)
    assert (shared.sequence_logprobs(left) - apart.sequence_logprobs(right)).abs().max() < 1e-10
    expected = [len(answer) for group in groups for answer in group.answers]
    assert answer_lengths(left).tolist() == answer_lengths(right).tolist() == expected


@torch.no_grad()
def test_an_answer_does_not_see_its_sibling():
    policy = LanguagePolicy(exact_llama(VOCABULARY), None)

    def logprobs(first, second):
        return policy.sequence_logprobs(policy.pack([AnswerGroup((3, 4), (first, second))])).tolist()

    one, two, three = (5, 6, 7, 0), (9, 9, 0), (8, 0)
    assert logprobs(one, two)[0] == pytest.approx(logprobs(one, three)[0], abs=1e-12)
    assert logprobs(two, one)[1] == pytest.approx(logprobs(three, one)[1], abs=1e-12)


@pytest.mark.parametrize(("prompt", "answers"), [((), ((1,),)), ((1,), ()), ((1,), ((),))])
def test_what_cannot_be_predicted_is_refused(prompt, answers):
    with pytest.raises(ValueError, match="no token"):
        AnswerGroup(prompt, answers)
