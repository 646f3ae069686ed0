"""The enumerated language: every sequence, once, and its tables."""

import torch

from logratio.verify.worlds.world import END, World, sequence_logprobs, token_logprobs


def test_its_size_is_the_sum_over_lengths():
    for vocabulary, horizon in ((4, 4), (3, 2), (2, 5)):
        world = World(vocabulary=vocabulary, horizon=horizon)
        words = vocabulary - 1
        assert len(world.prefixes) == sum(words**length for length in range(horizon))
        assert len(world.sequences) == len(world.prefixes) + words**horizon
        assert int(world.ended.sum()) == len(world.prefixes)
    assert (len(World().sequences), len(World().prefixes)) == (121, 40)


def test_every_sequence_stands_once_and_ends_as_it_must():
    world = World()
    assert len(set(world.sequences)) == 121
    for sequence, ended in zip(world.sequences, world.ended.tolist(), strict=True):
        assert END not in sequence[:-1]
        assert (sequence[-1] == END) == ended
        assert ended or len(sequence) == world.horizon
        assert all(sequence[:t] in world.prefixes for t in range(len(sequence)))


def test_tokens_mask_and_states_say_the_same():
    world = World()
    for row, sequence in enumerate(world.sequences):
        length = len(sequence)
        assert world.tokens[row].tolist() == [*sequence, *[END] * (4 - length)]
        assert world.mask[row].tolist() == [t < length for t in range(4)]
        for t in range(length):
            assert world.prefixes[world.states[row, t]] == sequence[:t]
        assert not world.states[row, length:].any()


def test_groups_hold_all_sequences_of_each_prompt():
    world = World(prompts=((1,), (2, 3, 1)))
    assert [group.prompt for group in world.groups()] == [(1,), (2, 3, 1)]
    assert all(group.answers == world.sequences for group in world.groups())


def test_uniform_logits_give_powers_of_a_quarter():
    world = World()
    logits = torch.zeros(2, 40, 4, dtype=torch.float64)
    lengths = torch.tensor([len(sequence) for sequence in world.sequences], dtype=torch.float64)
    torch.testing.assert_close(
        sequence_logprobs(world, logits).exp(), (0.25**lengths).expand(2, -1), rtol=1e-14, atol=0.0
    )
    assert not token_logprobs(world, logits)[:, ~world.mask].any()


def test_what_stands_behind_the_end_has_no_gradient():
    """State 0 stands in the padding as well as at the start; only the start may count."""
    world = World()
    logits = world.random_logits(seed=0).requires_grad_()
    values = token_logprobs(world, logits)
    behind = torch.where(world.mask, torch.zeros_like(values), values).sum()
    (gradient,) = torch.autograd.grad(behind, logits)
    assert not gradient.any()


def test_seeds_give_the_same_numbers_and_leave_the_global_generator_alone():
    world, state = World(), torch.random.get_rng_state()
    assert torch.equal(world.rewards(seed=1), world.rewards(seed=1))
    assert not torch.equal(world.rewards(seed=1), world.rewards(seed=2))
    assert torch.equal(2 * world.random_logits(seed=1), world.random_logits(seed=1, scale=2.0))
    assert world.rewards().shape == (2, 121)
    assert torch.equal(state, torch.random.get_rng_state())
