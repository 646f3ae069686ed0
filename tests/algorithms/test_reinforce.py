"""REINFORCE in a world of one step: expectations are sums, and the policy gradient has a closed form.

With `π = softmax(z)` and a reward for each action, `J = Σ π R` and `∂J/∂z_a = π_a (R_a − J)`.
"""

from contextlib import nullcontext
from functools import partial
from itertools import product

import pytest
import torch
from torch import nn

from logratio.algorithms import reinforce
from logratio.algorithms.reinforce import ReinforceConfig, train_reinforce
from logratio.errors import BadConfig
from logratio.packed_rows import AnswerGroup
from logratio.policies.actor_critic import LanguageActor
from logratio.policies.language import LanguagePolicy
from logratio.policies.microbatches import backpropagate_rows
from logratio.run_directory import RunDirectory
from logratio.training.loop import Session
from logratio.training.on_policy import backpropagate
from logratio.trajectories import ActionEvaluation, Rollout, Trajectories
from logratio.verify.checks import trainers
from logratio.verify.worlds import oracle
from logratio.verify.worlds.agents import EnumeratedCollector
from logratio.verify.worlds.training import Problem
from logratio.verify.worlds.transformer import word_tokenizer

CHANCES = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
REWARDS = torch.tensor([1.0, -2.0, 4.0], dtype=torch.float64)
EACH_AS_OFTEN_AS_LIKELY = (0, 0, 1, 2)
"""Actions whose mean is the expectation under `CHANCES`."""


class Table(nn.Module):
    """A policy of one state, and a critic of it."""

    def __init__(self):
        super().__init__()
        self.logits = nn.Parameter(CHANCES.log())
        self.value = nn.Parameter(torch.tensor(0.75, dtype=torch.float64))


class TableActor:
    """Groups of actions are items; an action is a row."""

    def __init__(self):
        self.module = Table()
        self.critic_parameters = [self.module.value]

    def _evaluate(self, item_ids, rollout):
        k = rollout.group_size
        rows = torch.tensor([item * k + place for item in item_ids for place in range(k)])
        actions = torch.tensor([action for item in item_ids for action in rollout.items[item]])
        logprobs = self.module.logits.log_softmax(0)
        entropy = -(logprobs.exp() * logprobs).sum()
        return ActionEvaluation(
            rows=rows,
            logprobs=logprobs[actions],
            entropy=entropy.expand(len(rows)),
            values=self.module.value.expand(len(rows)),
        )

    def accumulate_in_place(self):
        return nullcontext()

    def evaluate(self, items, item_ids, rollout):
        yield self._evaluate(item_ids, rollout)

    def backpropagate(self, rollout, item_ids, losses, weights):
        yield backpropagate_rows(self._evaluate(item_ids, rollout), losses, weights)


class TableCollector:
    """Always the same groups of actions."""

    unit, num_examples, controllers = "rollouts", 1, {}

    def __init__(self, actor, groups):
        self.actor, self.groups = actor, groups

    def reference_fingerprint(self):
        return ""

    def collect(self, step, examples, partition=None):
        return rollout_of(self.actor.module, self.groups)

    def update_controllers(self, rollout):
        return {}


def rollout_of(table, groups, *, greedy=None):
    """Groups of actions as the policy of the table recorded them."""
    actions = torch.tensor(groups)
    column = actions.flatten()[:, None]
    zeros = torch.zeros(column.shape, dtype=torch.float64)
    return Rollout(
        trajectories=Trajectories(
            mask=torch.ones(column.shape, dtype=torch.bool),
            logprobs=table.logits.detach().log_softmax(0)[column],
            rewards=REWARDS[column],
            values=zeros + table.value.detach(),
            next_values=zeros,
            discounts=zeros,
            traces=zeros,
        ),
        items=[tuple(group) for group in groups],
        item_of_row=torch.arange(len(groups)).repeat_interleave(actions.shape[1])[:, None],
        metrics={},
        group_size=actions.shape[1],
        greedy_returns=greedy,
    )


def policy_gradient(logits):
    """∂J/∂z of `J = Σ softmax(z) R`."""
    chances = logits.detach().softmax(0)
    return chances * (REWARDS - (chances * REWARDS).sum())


def descent(actor, rollout, config):
    """−∂L/∂z of a rollout as one minibatch, where nothing stood."""
    actor.module.zero_grad()
    losses = partial(reinforce.row_losses, targets=reinforce.estimate(rollout, config), config=config, time=1)
    backpropagate(actor, rollout, range(len(rollout.items)), losses, reduction=config.reduction, step=0)
    return -actor.module.logits.grad


def expected_descent(config, *, group_size, num_groups=1, greedy=None):
    """The mean of `descent` over all rollouts of so many actions, each as likely as the policy makes it."""
    total = torch.zeros_like(CHANCES)
    for actions in product(range(len(CHANCES)), repeat=group_size * num_groups):
        groups = torch.tensor(actions).reshape(num_groups, group_size).tolist()
        returns = None if greedy is None else torch.full((len(actions),), greedy, dtype=torch.float64)
        actor = TableActor()
        found = descent(actor, rollout_of(actor.module, groups, greedy=returns), config)
        total += CHANCES[list(actions)].prod() * found
    return total


def test_the_closed_form_hand_worked():
    """J = ½·1 − ¼·2 + ¼·4 = 1."""
    assert policy_gradient(CHANCES.log()).tolist() == pytest.approx([0.0, -0.75, 0.75], abs=1e-15)


def test_actions_as_often_as_they_are_likely_have_the_policy_gradient():
    actor = TableActor()
    rollout = rollout_of(actor.module, [EACH_AS_OFTEN_AS_LIKELY])
    found = descent(actor, rollout, ReinforceConfig.of(baseline="none"))
    torch.testing.assert_close(found, policy_gradient(actor.module.logits), rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("baseline", "group_size", "num_groups", "share"),
    [
        ("none", 1, 2, 1.0),
        ("leave-one-out", 2, 1, 1.0),
        ("leave-one-out", 3, 1, 1.0),
        ("leave-one-out", 2, 2, 1.0),
        ("greedy", 1, 2, 1.0),
        ("critic", 1, 2, 1.0),
        # A mean that holds the sequence itself takes its share off the gradient, and turns it nowhere else.
        ("group-centred", 2, 1, 1 / 2),
        ("group-centred", 3, 1, 2 / 3),
        ("group-centred", 2, 2, 1 / 2),
        ("batch-mean", 1, 2, 1 / 2),
        ("batch-mean", 2, 2, 3 / 4),
    ],
)
def test_what_a_baseline_leaves_of_the_expected_gradient(baseline, group_size, num_groups, share):
    found = expected_descent(
        ReinforceConfig.of(baseline=baseline), group_size=group_size, num_groups=num_groups, greedy=3.0
    )
    torch.testing.assert_close(found, share * policy_gradient(CHANCES.log()), rtol=0, atol=1e-14)


@pytest.mark.parametrize("baseline", ["leave-one-out", "greedy", "critic"])
def test_a_baseline_does_change_the_gradient_of_a_rollout(baseline):
    """Otherwise its mean would say nothing."""
    actor = TableActor()
    greedy = torch.full((2,), 3.0, dtype=torch.float64)
    rollout = rollout_of(actor.module, [(0, 2)], greedy=greedy)
    plain, other = (descent(actor, rollout, ReinforceConfig.of(baseline=name)) for name in ("none", baseline))
    assert float((plain - other).abs().max()) > 0.1


def test_the_critic_moves_towards_the_mean_reward():
    """∂/∂V of c·½(V − R)² is c (V − J), with J = 1 and V = ¾."""
    actor = TableActor()
    rollout = rollout_of(actor.module, [EACH_AS_OFTEN_AS_LIKELY])
    descent(actor, rollout, ReinforceConfig.of(baseline="critic", value_coefficient=0.5))
    assert float(actor.module.value.grad) == pytest.approx(0.5 * (0.75 - 1.0), abs=1e-14)


def test_a_critic_is_needed_for_its_baseline():
    actor = TableActor()
    rollout = rollout_of(actor.module, [(0, 1)])
    targets = reinforce.estimate(rollout, ReinforceConfig.of(baseline="critic"))
    now = ActionEvaluation(rows=torch.arange(2), logprobs=torch.zeros(2), entropy=torch.zeros(2))
    with pytest.raises(BadConfig, match="no critic"):
        reinforce.row_losses(now, targets=targets, config=ReinforceConfig.of(baseline="critic"), time=1)


def steps_of(path, monkeypatch, **settings):
    """Logits and gradient before each of two steps; both minibatches are as likely as the policy says."""
    actor, seen, honest = TableActor(), [], Session.optimizer_step

    def look(self, step, examples):
        seen.append((actor.module.logits.detach().clone(), -actor.module.logits.grad.clone()))
        return honest(self, step, examples)

    monkeypatch.setattr(Session, "optimizer_step", look)
    config = ReinforceConfig.of(
        baseline="none", minibatches=2, learning_rate=0.5, warmup=0.0, batch_size=1, epochs=1, **settings
    )
    with RunDirectory.begin(path, {"identity": {}}) as run:
        summary = train_reinforce(actor, TableCollector(actor, [EACH_AS_OFTEN_AS_LIKELY] * 2), config, run)
        assert summary["updates"] == 1
        return seen, run.metrics


@pytest.mark.parametrize("weights", ["token", "sequence"])
def test_a_later_minibatch_has_the_gradient_of_where_the_policy_has_gone(tmp_path, monkeypatch, weights):
    """Weighed by π/μ, actions of the policy that collected have the mean of the policy as it is."""
    (first, second), rows = steps_of(tmp_path, monkeypatch, weights=weights, weight_ceiling=0.0)
    assert float((first[0] - second[0]).abs().max()) > 0.4
    for logits, found in (first, second):
        torch.testing.assert_close(found, policy_gradient(logits), rtol=0, atol=1e-14)
    norms = [float(found.norm()) for _, found in (first, second)]
    assert rows[0]["gradient_norm"] == pytest.approx(sum(norms) / 2, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "ceiling"), [({"weights": "none"}, None), ({"weight_ceiling": 1.1}, 1.1)]
)
def test_weights_that_are_left_out_or_cut_have_the_gradient_that_the_sum_says(
    tmp_path, monkeypatch, settings, ceiling
):
    """`Σ μ(a) w(a) R(a) ∂log π(a)/∂z`, with w = 1 or min(π/μ, ceiling)."""
    (_, (logits, found)), _ = steps_of(tmp_path, monkeypatch, **settings)
    chances = logits.softmax(0)
    ratios = chances / CHANCES
    weights = torch.ones(3, dtype=torch.float64) if ceiling is None else ratios.clamp(max=ceiling)
    assert float(ratios.max()) > 1.2
    credit = CHANCES * weights * REWARDS
    torch.testing.assert_close(found, credit - chances * credit.sum(), rtol=0, atol=1e-14)
    assert float((found - policy_gradient(logits)).abs().max()) > 0.1


def all_pairs(collector, logits):
    """All pairs of a world's sequences behind its first prompt, each a group of two, and their chances."""
    world = collector.problem.world
    pairs = torch.tensor(list(product(range(len(world.sequences)), repeat=2)))
    values = torch.zeros(len(world.prompts), len(world.prefixes), dtype=torch.float64)
    groups = [tuple(world.sequences[place] for place in pair) for pair in pairs.tolist()]
    rollout = Rollout(
        trajectories=collector.trajectories(logits, values, torch.zeros_like(pairs), pairs),
        items=[AnswerGroup(world.prompts[0], answers) for answers in groups],
        item_of_row=torch.arange(len(pairs)).repeat_interleave(2)[:, None].expand(-1, world.horizon),
        metrics={},
        group_size=2,
    )
    return rollout, chances_of(world, logits)[pairs].prod(dim=1)


def chances_of(world, logits):
    """`[S]` probabilities of a table's sequences behind the first prompt."""
    return torch.tensor(oracle.sequence_probabilities(world, logits), dtype=torch.float64)[0]


@pytest.mark.parametrize(("baseline", "share"), [("leave-one-out", 1.0), ("group-centred", 0.5)])
def test_all_pairs_of_a_worlds_sequences_have_the_gradient_of_its_objective(baseline, share):
    """On the enumerated language of the exact checks, by a Llama's own weights."""
    world, policy = trainers.COMPARED, LanguagePolicy(trainers.reference_llama(seed=1), word_tokenizer())
    actor = LanguageActor(policy, row_tokens=10_000)
    logits = oracle.transformer_logits(world, policy.model)
    reference = oracle.transformer_logits(world, trainers.reference_llama(seed=2))
    problem = Problem(world=world, reference=reference, rewards=world.rewards(seed=7), beta=0.5)
    rollout, chances = all_pairs(EnumeratedCollector(actor, problem, num_samples=2), logits)
    config = ReinforceConfig.of(baseline=baseline, credit="return")
    targets = reinforce.estimate(rollout, config)
    losses = partial(reinforce.row_losses, targets=targets, config=config, time=world.horizon)
    # Each of the two sequences counts half.
    weights = (chances / 2).repeat_interleave(2 * world.horizon)
    for _ in actor.backpropagate(rollout, range(len(rollout.items)), losses, weights):
        pass
    found = torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])
    policy.model.zero_grad()
    logprobs = policy.sequence_logprobs(policy.pack(world.groups()[:1]))
    earned = problem.rewards[0] - 0.5 * (logprobs.detach() - chances_of(world, reference).log())
    (-(logprobs.exp() * earned).sum()).backward()
    exact = torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])
    assert float(exact.norm()) > 1e-2
    assert float((found - share * exact).norm() / exact.norm()) < 1e-9
