"""The oracle against answers worked by hand, closed forms, and facts that hold of any policy."""

import math

import pytest
import torch

from logratio.verify.worlds import optimum, oracle, transformer
from logratio.verify.worlds.world import World, sequence_logprobs, token_logprobs

WORLD = World()
COIN = World(vocabulary=2, horizon=2, prompts=((1,),))
"""Sequences (0), (1, 0), (1, 1); states () and (1,)."""
UNEVEN = torch.tensor([[[0.0, math.log(3)], [math.log(4), 0.0]]], dtype=torch.float64)
"""Ends at once with 1/4; after a 1, ends with 4/5."""


def test_a_world_of_three_sequences_worked_by_hand():
    assert COIN.sequences == ((0,), (1, 0), (1, 1))
    assert oracle.sequence_probabilities(COIN, UNEVEN)[0] == pytest.approx([0.25, 0.6, 0.15], rel=1e-14)
    assert oracle.visitation(COIN, UNEVEN)[0] == pytest.approx([1.0, 0.75], rel=1e-14)
    assert oracle.token_logprobs(COIN, UNEVEN)[0][1] == pytest.approx([math.log(0.75), math.log(0.8)])
    assert oracle.expected(COIN, UNEVEN, [[4.0, 10.0, -2.0]]) == pytest.approx(1.0 + 6.0 - 0.3)
    even = torch.zeros(1, 2, 2, dtype=torch.float64)
    by_hand = 0.25 * math.log(0.25 / 0.5) + 0.6 * math.log(0.6 / 0.25) + 0.15 * math.log(0.15 / 0.25)
    assert oracle.sequence_kl(COIN, UNEVEN, even) == pytest.approx(by_hand, rel=1e-14)
    half_square = (
        0.25 * math.log(0.5) ** 2 + 0.6 * math.log(0.6 / 0.25) ** 2 + 0.15 * math.log(0.6) ** 2
    ) / 2
    assert oracle.half_squared_log_ratio(COIN, UNEVEN, even) == pytest.approx(half_square, rel=1e-14)
    assert oracle.entropy(COIN, even) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(4), rel=1e-14)


def test_totals_worked_by_hand():
    rewards = torch.tensor([[[1.0, 100.0], [2.0, 3.0], [-4.0, 8.0]]])
    assert oracle.totals(COIN, rewards) == [[1.0, 5.0, 4.0]]
    assert oracle.totals(COIN, rewards, discount=0.5) == [[1.0, 3.5, 0.0]]


def test_sequence_probabilities_are_those_of_the_tensor_form():
    logits = WORLD.random_logits(seed=0)
    ours = torch.tensor(oracle.sequence_probabilities(WORLD, logits), dtype=torch.float64)
    torch.testing.assert_close(ours, sequence_logprobs(WORLD, logits).exp(), rtol=1e-13, atol=0.0)
    tokens = [value for prompt in oracle.token_logprobs(WORLD, logits) for row in prompt for value in row]
    expected = token_logprobs(WORLD, logits)[:, WORLD.mask].flatten().tolist()
    assert tokens == pytest.approx(expected, rel=1e-13)


def test_visitation_is_the_probability_of_the_sequences_through_a_state():
    logits = WORLD.random_logits(seed=0)
    for reached, column in zip(
        oracle.visitation(WORLD, logits), oracle.sequence_probabilities(WORLD, logits), strict=True
    ):
        for prefix, visited in zip(WORLD.prefixes, reached, strict=True):
            through = [
                p
                for sequence, p in zip(WORLD.sequences, column, strict=True)
                if len(sequence) > len(prefix) and sequence[: len(prefix)] == prefix
            ]
            assert visited == pytest.approx(math.fsum(through), rel=1e-13)


def test_entropy_is_the_visited_states_entropy_and_kl_is_not_negative():
    logits, other = WORLD.random_logits(seed=0), WORLD.random_logits(seed=1)
    table = logits.log_softmax(dim=-1)
    local = -(table.exp() * table).sum(dim=-1)
    visited = torch.tensor(oracle.visitation(WORLD, logits), dtype=torch.float64)
    assert oracle.entropy(WORLD, logits) == pytest.approx(float((visited * local).sum() / 2), rel=1e-13)
    assert oracle.sequence_kl(WORLD, logits, logits) == 0.0
    assert oracle.sequence_kl(WORLD, logits, other) > 0.5
    # Logits are known up to a constant a state.
    assert oracle.sequence_kl(WORLD, logits, logits + 7.0) == pytest.approx(0.0, abs=1e-14)


def test_squared_score_norms_are_those_of_autograd():
    logits = WORLD.random_logits(seed=0).requires_grad_()
    logprobs = sequence_logprobs(WORLD, logits)
    norms = oracle.squared_score_norms(WORLD, logits)
    for prompt, sequence in ((0, 0), (0, 17), (1, 60), (1, 120)):
        (score,) = torch.autograd.grad(logprobs[prompt, sequence], logits, retain_graph=True)
        assert norms[prompt][sequence] == pytest.approx(float(score.square().sum()), rel=1e-12)


def test_central_differences_of_known_functions():
    at = torch.tensor([[1.0, 2.0], [-0.5, 3.0]], dtype=torch.float64)
    square = oracle.central_differences(lambda x: float((x**2).sum()), at)
    torch.testing.assert_close(square, 2 * at, rtol=1e-9, atol=0.0)
    product = oracle.central_differences(lambda x: float(x.sin().prod()), at)
    expected = at.sin().prod() * at.cos() / at.sin()
    torch.testing.assert_close(product, expected, rtol=1e-8, atol=1e-10)
    assert at.tolist() == [[1.0, 2.0], [-0.5, 3.0]]


def test_softmax_does_not_overflow():
    assert oracle.softmax([1e4, 0.0, -1e4]) == [1.0, 0.0, 0.0]


# --- the transformer -----------------------------------------------------------------------------------


def test_the_transformer_is_the_same_for_a_seed_and_far_from_uniform():
    state = torch.random.get_rng_state()
    left, right, other = (transformer.small_llama(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    tables = [oracle.transformer_logits(WORLD, model) for model in (left, right, other)]
    assert torch.equal(tables[0], tables[1])
    assert oracle.sequence_kl(WORLD, tables[0], tables[2]) > 0.1
    assert oracle.sequence_kl(WORLD, tables[0], torch.zeros_like(tables[0])) > 0.2
    chances = tables[0].softmax(dim=-1)
    assert chances.min() > 1e-4
    # The prompt and the tokens before are read: no two states are alike but for 1, 1 1, 1 1 1 and 1 1 1 1,
    # where attention averages over equal values.
    rounded = {tuple(round(value, 9) for value in row) for row in chances.flatten(0, 1).tolist()}
    assert len(rounded) == 77


def test_the_transformer_computes_in_float64():
    model = transformer.small_llama(seed=1)
    near = transformer.small_llama(seed=1)
    with torch.no_grad():
        near.model.layers[0].input_layernorm.weight[0] += 1e-12
    moved = (oracle.transformer_logits(WORLD, near) - oracle.transformer_logits(WORLD, model)).abs().max()
    assert 0 < float(moved) < 1e-10


def test_an_answers_logprobs_are_those_of_its_states():
    model = transformer.small_llama(seed=1)
    by_state = oracle.token_logprobs(WORLD, oracle.transformer_logits(WORLD, model))
    for prompt, sequence in ((0, 5), (1, 100)):
        found = oracle.answer_logprobs(model, WORLD.prompts[prompt], WORLD.sequences[sequence])
        assert found == pytest.approx(by_state[prompt][sequence], rel=1e-13)


def test_temperature_and_top_k_by_hand():
    model = transformer.small_llama(seed=1)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[1, 2]])).logits[0, -1].tolist()
    first, second = sorted(range(4), key=lambda index: -logits[index])[:2]
    gap = (logits[first] - logits[second]) / 0.5
    found = oracle.answer_logprobs(model, (1, 2), (second,), temperature=0.5, top_k=2)
    assert found == pytest.approx([-math.log1p(math.exp(gap))], rel=1e-12)


def test_slopes_along_directions_are_the_gradients():
    """Of the table's own sum of logits, which autograd differentiates through the same model."""
    model = transformer.small_llama(seed=1)
    small = World(horizon=2, prompts=((1,),))
    ways = transformer.directions(model, count=3, seed=0)
    assert ways.norm(dim=1).tolist() == pytest.approx([1.0] * 3)
    tables = transformer.tables_along(small, model, ways)
    slopes = transformer.slopes(lambda table: float(table[0, 2].square().sum()), tables)
    logits = model(input_ids=torch.tensor([[1, *small.prefixes[2]]])).logits[0, -1]
    gradients = torch.autograd.grad(logits.square().sum(), list(model.parameters()))
    gradient = torch.cat([entry.flatten() for entry in gradients])
    torch.testing.assert_close(slopes, ways @ gradient, rtol=1e-6, atol=1e-9)


def test_the_word_tokenizer_reads_and_writes_the_worlds_tokens():
    tokenizer = transformer.word_tokenizer()
    assert tokenizer("b c a", add_special_tokens=False)["input_ids"] == [2, 3, 1]
    assert tokenizer.eos_token_id == 0
    assert len(tokenizer) == 4


# --- the optimum ---------------------------------------------------------------------------------------


def test_the_optimum_of_three_sequences_worked_by_hand():
    """exp(r/β) = 1, 2, 4 on 1/4, 3/5, 3/20: masses 0.25, 1.2, 0.6 of Z = 2.05."""
    rewards = 0.5 * torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64).log()
    best, log_z = optimum.optimal_probabilities(COIN, UNEVEN, rewards, beta=0.5)
    assert best[0] == pytest.approx([0.25 / 2.05, 1.2 / 2.05, 0.6 / 2.05], rel=1e-14)
    assert log_z == pytest.approx([math.log(2.05)], rel=1e-14)
    values, actions = optimum.soft_values(COIN, UNEVEN, rewards, beta=0.5)
    inner = 0.5 * math.log(0.8 * 2 + 0.2 * 4)
    assert values[0].tolist() == pytest.approx([0.5 * math.log(2.05), inner], rel=1e-13)
    assert actions[0, 0].tolist() == pytest.approx([0.0, inner], abs=1e-14)
    table = optimum.autoregressive_logits(COIN, best)
    assert oracle.sequence_probabilities(COIN, table)[0] == pytest.approx(best[0], rel=1e-14)


@pytest.mark.parametrize("beta", [10.0, 0.3, 0.05])
def test_no_other_policy_is_better(beta):
    reference, rewards = WORLD.random_logits(seed=0), WORLD.rewards(seed=1)
    best = optimum.optimal_logits(WORLD, reference, rewards, beta=beta)
    reached = optimum.regularised_reward(WORLD, best, reference, rewards, beta=beta)
    for seed in range(5):
        near = best + WORLD.random_logits(seed=seed, scale=0.1)
        assert optimum.regularised_reward(WORLD, near, reference, rewards, beta=beta) < reached
    assert optimum.regularised_reward(WORLD, reference, reference, rewards, beta=beta) < reached


def test_total_variation():
    assert optimum.total_variation([[0.5, 0.5, 0.0]], [[0.0, 0.5, 0.5]]) == 0.5
    assert optimum.total_variation([[1.0, 0.0], [0.5, 0.5]], [[0.0, 1.0], [0.5, 0.5]]) == 0.5
