"""Heads against closed forms, what is sampled is what is scored, and memories that end with an episode."""

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from logratio.control.categorical import CategoricalHead
from logratio.control.gaussian import GaussianHead
from logratio.control.networks import ImageEncoder, RecurrentLayer, StackedMLP, mlp
from logratio.control.policy import ControlActor, ControlPolicy, NetworkConfig
from logratio.control.policy_files import load_policy, save_policy
from logratio.errors import BadConfig

FEATURES = 6


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(head):
    """The same with weights that are not near 0."""
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(generator=seeded(7))
    return head


@pytest.mark.parametrize("sizes", [(3,), (2, 4, 3), (2, 2, 2, 2)])
def test_choices_have_the_probabilities_of_independent_softmaxes(sizes):
    head = awake(CategoricalHead(FEATURES, sizes, generator=seeded()))
    features = torch.randn(5, FEATURES, generator=seeded(1))
    parts = [Categorical(logits=part) for part in head.layer(features).split(sizes, dim=-1)]
    actions, logprobs = head.sample(features, noise=head.noise(len(features), generator=seeded(2)))
    exact = sum(part.log_prob(actions[:, number]) for number, part in enumerate(parts))
    torch.testing.assert_close(logprobs, exact)
    again, entropy = head.evaluate(features, actions)
    torch.testing.assert_close(again, exact)
    torch.testing.assert_close(entropy, sum(part.entropy() for part in parts))
    for number, part in enumerate(parts):
        torch.testing.assert_close(head.greedy(features)[:, number], part.probs.argmax(dim=-1))


def test_choices_are_drawn_as_often_as_their_probability_says():
    head = awake(CategoricalHead(FEATURES, (4,), generator=seeded()))
    features = torch.randn(1, FEATURES, generator=seeded(1)).expand(200_000, -1)
    drawn, _ = head.sample(features, noise=head.noise(len(features), generator=seeded(2)))
    shares = torch.bincount(drawn[:, 0], minlength=4) / len(drawn)
    exact = head.log_probabilities(features[:1])[0].exp()
    z = (shares - exact) / (exact * (1 - exact) / len(drawn)).sqrt()
    assert z.abs().max() < 4.5


@pytest.mark.parametrize("sizes", [(4,), (2, 4)])
def test_what_is_not_allowed_has_probability_zero_and_no_gradient(sizes):
    head = awake(CategoricalHead(FEATURES, sizes, generator=seeded()))
    features = torch.randn(300, FEATURES, generator=seeded(1))
    action_mask = torch.rand(300, sum(sizes), generator=seeded(3)) < 0.5
    for start, size in zip((0, *torch.tensor(sizes).cumsum(0)[:-1].tolist()), sizes, strict=True):
        action_mask[:, start] |= ~action_mask[:, start : start + size].any(dim=1)
    logprobs = head.log_probabilities(features, action_mask)
    assert (logprobs.exp()[~action_mask] == 0.0).all()
    actions, drawn = head.sample(
        features, noise=head.noise(len(features), generator=seeded(2)), action_mask=action_mask
    )
    offsets = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    assert action_mask.gather(1, actions + offsets).all()
    assert action_mask.gather(1, head.greedy(features, action_mask=action_mask) + offsets).all()
    again, entropy = head.evaluate(features, actions, action_mask=action_mask)
    torch.testing.assert_close(again, drawn)
    (again.sum() + entropy.sum()).backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in head.parameters())
    expected = -(logprobs.exp() * logprobs.nan_to_num(neginf=0.0)).sum(dim=-1)
    torch.testing.assert_close(entropy, expected)


@pytest.mark.parametrize("std", ["parameter", "state"])
def test_numbers_have_the_density_of_normal_distributions(std):
    head = awake(GaussianHead(FEATURES, 3, std=std, initial=-0.5, generator=seeded()))
    features = torch.randn(5, FEATURES, generator=seeded(1))
    mean, log_std = head.distribution(features)
    exact = Independent(Normal(mean, log_std.exp()), 1)
    actions, logprobs = head.sample(features, noise=head.noise(len(features), generator=seeded(2)))
    torch.testing.assert_close(logprobs, exact.log_prob(actions))
    again, entropy = head.evaluate(features, actions)
    torch.testing.assert_close(again, exact.log_prob(actions))
    torch.testing.assert_close(entropy, exact.entropy())
    torch.testing.assert_close(head.greedy(features), mean)


def test_deviations_begin_where_they_are_told():
    for std in ("parameter", "state"):
        head = GaussianHead(FEATURES, 2, std=std, initial=-1.5, generator=seeded())
        features = torch.randn(4, FEATURES, generator=seeded(1)) * 0.01
        assert head.distribution(features)[1].detach() == pytest.approx(-1.5 * torch.ones(4, 2), abs=0.01)


def test_weights_are_orthogonal_and_a_function_of_the_seed():
    body = mlp(8, (8, 8), activation="tanh", generator=seeded())
    for layer in (body[0], body[2]):
        torch.testing.assert_close(layer.weight @ layer.weight.T, 2.0 * torch.eye(8), atol=1e-5, rtol=0)
        assert (layer.bias == 0).all()
    again = mlp(8, (8, 8), activation="tanh", generator=seeded())
    assert torch.equal(body[0].weight, again[0].weight)
    head = CategoricalHead(8, (4,), generator=seeded())
    torch.testing.assert_close(
        head.layer.weight @ head.layer.weight.T, 1e-4 * torch.eye(4), atol=1e-7, rtol=0
    )


def made(*, separate_critic=False, **settings):
    networks = NetworkConfig(hidden_sizes=(16,), **settings)
    spaces = {"shape": (FEATURES,), "sizes": (3,), "num_numbers": 0}
    return ControlPolicy(**spaces, config=networks, critic=True, separate_critic=separate_critic, seed=0)


@pytest.mark.parametrize("recurrent_width", [0, 8])
def test_steps_one_by_one_say_what_sequences_say(recurrent_width):
    policy = made(recurrent_width=recurrent_width)
    seen = torch.randn(4, 7, FEATURES, generator=seeded(1))
    episode_start = torch.rand(4, 7, generator=seeded(2)) < 0.3
    first = torch.randn(4, recurrent_width, generator=seeded(3))
    hidden_state, generator, actions, logprobs = first, seeded(4), [], []
    for time in range(7):
        noise = policy.head.noise(len(seen), generator=generator)
        drawn, said, hidden_state = policy.act(
            seen[:, time], hidden_state, episode_start[:, time], noise=noise
        )
        actions.append(drawn)
        logprobs.append(said)
    whole, _, values = policy.evaluate(
        seen, torch.stack(actions, 1), hidden_state=first, episode_start=episode_start
    )
    torch.testing.assert_close(torch.stack(logprobs, 1), whole)
    torch.testing.assert_close(values, policy.values(seen, hidden_state=first, episode_start=episode_start))
    torch.testing.assert_close(
        policy.hidden_states(seen, hidden_state=first, episode_start=episode_start)[:, -1], hidden_state
    )


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("shape", [(9,), (3, 5)])
def test_twins_are_two_perceptrons(activation, shape):
    """Features of both and every gradient, in float64."""
    pair = [mlp(FEATURES, (8, 7), activation=activation, generator=seeded(seed)).double() for seed in (1, 2)]
    for bias in (layer.bias for one in pair for layer in one if isinstance(layer, nn.Linear)):
        nn.init.normal_(bias, generator=seeded(5))
    twins = StackedMLP(*pair, activation=activation)
    seen = torch.randn(*shape, FEATURES, generator=seeded(3), dtype=torch.float64)
    found, expected = twins(seen), [one(seen) for one in pair]
    weights = torch.randn(2, *shape, 7, generator=seeded(4), dtype=torch.float64)
    for features, exact in zip(found, expected, strict=True):
        torch.testing.assert_close(features, exact)
    torch.testing.assert_close(twins.first(seen), expected[0])
    (torch.stack(found) * weights).sum().backward()
    (torch.stack(expected) * weights).sum().backward()
    for number, one in enumerate(pair):
        layers = [layer for layer in one if isinstance(layer, nn.Linear)]
        for layer, weight, bias in zip(layers, twins.weights, twins.biases, strict=True):
            torch.testing.assert_close(weight.grad[number].T, layer.weight.grad)
            torch.testing.assert_close(bias.grad[number, 0], layer.bias.grad)


def test_a_policy_begins_the_same_whether_its_critic_is_held_apart_or_not():
    seen, episode_start = torch.randn(9, FEATURES, generator=seeded(1)), torch.zeros(9, dtype=torch.bool)
    actions = torch.zeros(9, 1, dtype=torch.int64)
    together, apart = (
        made(separate_critic=own).evaluate(
            seen, actions, hidden_state=torch.zeros(9, 0), episode_start=episode_start
        )
        for own in (False, True)
    )
    for one, other in zip(together, apart, strict=True):
        torch.testing.assert_close(one, other)


def test_nothing_is_remembered_from_the_episode_before():
    policy = made(recurrent_width=8)
    seen = torch.randn(1, 6, FEATURES, generator=seeded(1))
    episode_start = torch.tensor([[True, False, False, True, False, False]])
    for other in (seen.clone(), seen.clone()):
        other[:, :3] = torch.randn(1, 3, FEATURES, generator=seeded(5))
        one, two = (
            policy.values(x, hidden_state=policy.initial_state(1), episode_start=episode_start)
            for x in (seen, other)
        )
        torch.testing.assert_close(one[:, 3:], two[:, 3:])
        assert not torch.allclose(one[:, :3], two[:, :3])


def test_a_memory_is_the_recurrence_of_its_paper():
    """`h' = (1 − z) ∘ n + z ∘ h` with torch's names of the gates, computed here from the weights."""
    layer = RecurrentLayer(3, 2, generator=seeded())
    x, h = torch.randn(1, 3, generator=seeded(1)), torch.randn(1, 2, generator=seeded(2))
    cell = layer.cell
    (r, z, n), (hr, hz, hn) = (
        (w @ v.T + b[:, None]).squeeze(1).chunk(3)
        for w, v, b in ((cell.weight_ih, x, cell.bias_ih), (cell.weight_hh, h, cell.bias_hh))
    )
    r, z = (r + hr).sigmoid(), (z + hz).sigmoid()
    expected = (1 - z) * (n + r * hn).tanh() + z * h[0]
    torch.testing.assert_close(layer(x[:, None], h, torch.zeros(1, 1, dtype=torch.bool))[1][0], expected)


def test_images_are_read_as_bytes_whatever_stands_around_them():
    encoder = ImageEncoder((3, 40, 48), width=5, generator=seeded())
    images = torch.randint(0, 256, (2, 4, 3, 40, 48), generator=seeded(1), dtype=torch.uint8)
    whole = encoder(images)
    assert whole.shape == (2, 4, 5)
    torch.testing.assert_close(whole[1, 2], encoder(images[1, 2][None])[0], atol=1e-5, rtol=1e-5)


def test_a_policy_is_the_same_when_it_is_read_again(tmp_path):
    policy = made(recurrent_width=8)
    spaces = {"shape": (FEATURES,), "sizes": (3,), "num_numbers": 0}
    save_policy(policy, tmp_path / "model", spaces=spaces, scale={"wanted": False}, environment="Made-v0")
    again, description = load_policy(tmp_path / "model")
    assert description["environment"] == "Made-v0"
    assert all(map(torch.equal, policy.state_dict().values(), again.state_dict().values()))


def test_only_the_critic_s_own_weights_are_its_own():
    apart, shared, twins = made(separate_critic=True), made(shared=True), made()
    assert len(apart.critic_parameters) == 4
    # With the policy's layers in the same tensors, the last layer is all that is the critic's alone.
    assert len(twins.critic_parameters) == 2
    assert len(shared.critic_parameters) == 2
    with pytest.raises(BadConfig, match="held together"):
        ControlActor(twins).critic_parameters  # noqa: B018
    assert ControlActor(apart).critic_parameters == apart.critic_parameters
    bare = ControlPolicy(
        shape=(FEATURES,), sizes=(3,), num_numbers=0, config=NetworkConfig(), critic=False, seed=0
    )
    assert bare.critic_parameters == []
    nothing = bare.values(
        torch.zeros(2, FEATURES),
        hidden_state=bare.initial_state(2),
        episode_start=torch.ones(2, dtype=torch.bool),
    )
    assert nothing.tolist() == [0.0, 0.0]
