"""The trainers end at the exact optimum, and what they compute on the way is what the definitions say."""

import dataclasses
import math

import pytest
import torch

from logratio.algorithms import ppo, reinforce
from logratio.algorithms.ppo import PPOConfig, train_ppo
from logratio.algorithms.reinforce import ReinforceConfig
from logratio.policies.actor_critic import LanguageActor, ValueHead
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.rollouts.collector import LanguageCollector
from logratio.rollouts.collector_config import CollectorConfig
from logratio.rollouts.reward_shaping import WeightedReward
from logratio.run_directory import RunDirectory
from logratio.trajectories import Rollout
from logratio.verify.checks import trainers
from logratio.verify.worlds import oracle
from logratio.verify.worlds.agents import EnumeratedCollector, read_tables
from logratio.verify.worlds.training import Problem
from logratio.verify.worlds.transformer import WORDS, word_tokenizer
from logratio.verify.worlds.world import token_logprobs

WORLD = trainers.WORLD


def make(*, num_samples=5, copies=1, beta=0.5, lam=0.8, seed=0):
    """An actor away from its reference, with a critic that says something, and its collector."""
    model = trainers.reference_llama(seed=1)
    head = ValueHead(trainers.WIDTH, dtype=torch.float64)
    torch.nn.init.constant_(head.linear.weight, 0.1)
    actor = LanguageActor(LanguagePolicy(model, word_tokenizer()), row_tokens=64, value_head=head)
    reference = oracle.transformer_logits(WORLD, trainers.reference_llama(seed=2))
    problem = Problem(world=WORLD, reference=reference, rewards=WORLD.rewards(seed=7), beta=beta)
    return EnumeratedCollector(actor, problem, num_samples=num_samples, copies=copies, lam=lam, seed=seed)


def sequences(rollout):
    """Prompt number and tokens of every row."""
    return [
        (WORLD.prompts.index(group.prompt), answer) for group in rollout.items for answer in group.answers
    ]


@pytest.mark.slow
@pytest.mark.parametrize("check", trainers.CHECKS, ids=lambda check: check.name)
def test_every_row_passes(check):
    rows = check.run(False)
    assert rows
    assert [row for row in rows if not row.passed] == []


@pytest.mark.slow
@pytest.mark.parametrize("trainer", trainers.CONFIGS)
def test_a_run_comes_nearer_from_far(trainer):
    distances = trainers.train(trainer, seed=0).distances
    assert len(distances) == trainers.CONFIGS[trainer].loop.epochs
    assert distances[0] > 0.2
    assert distances[-1] < 0.05


# --- the collector on the enumerated world -------------------------------------------------------------


def test_the_tables_are_those_of_one_sequence_at_a_time():
    collector = make()
    logits, values = read_tables(WORLD, collector.actor)
    expected = oracle.transformer_logits(WORLD, collector.actor.policy.model)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-12)
    model, head = collector.actor.policy.model, collector.actor.value_head
    for p, prompt in enumerate(WORLD.prompts):
        for n, prefix in enumerate(WORLD.prefixes):
            state = model.base_model(input_ids=torch.tensor([[*prompt, *prefix]])).last_hidden_state[0, -1]
            assert values[p, n].item() == pytest.approx(head(state[None]).item(), abs=1e-12)


def test_without_a_critic_the_values_are_0():
    collector = make()
    collector.actor.value_head = None
    assert read_tables(WORLD, collector.actor)[1].abs().max() == 0
    assert collector.collect(0, [0]).trajectories.values.abs().max() == 0


def test_no_two_states_look_alike_to_the_llama():
    model = trainers.reference_llama(seed=0)
    rows = oracle.transformer_logits(WORLD, model).flatten(0, 1)
    assert torch.pdist(rows).min() > 1e-3


def test_sequences_are_drawn_as_often_as_the_policy_says():
    collector = make(num_samples=20_000)
    rollout = collector.collect(0, [0, 1])
    policy = oracle.sequence_probabilities(
        WORLD, oracle.transformer_logits(WORLD, collector.actor.policy.model)
    )
    drawn = sequences(rollout)
    for p in range(2):
        for sequence, chance in zip(WORLD.sequences, policy[p], strict=True):
            count = drawn.count((p, sequence))
            spread = math.sqrt(20_000 * chance * (1 - chance))
            assert abs(count - 20_000 * chance) < 4.5 * spread


def test_drawing_is_a_function_of_seed_and_step():
    first, second = make(copies=3), make(copies=3)
    second.collect(1, [5])
    assert sequences(first.collect(4, [0, 3, 5])) == sequences(second.collect(4, [0, 3, 5]))
    others = [first.collect(5, [0, 3, 5]), make(copies=3, seed=1).collect(4, [0, 3, 5])]
    for other in others:
        assert sequences(first.collect(4, [0, 3, 5])) != sequences(other)
    assert [p for p, _ in sequences(first.collect(4, [0, 3, 5]))] == [0] * 5 + [1] * 10


def test_what_is_collected_is_what_the_product_collects():
    """The product's own collector decodes and reads packed rows, and says the same of the same answers."""
    ours = make(num_samples=12)
    reference = LanguagePolicy(trainers.reference_llama(seed=2), word_tokenizer())
    number = {sequence: place for place, sequence in enumerate(WORLD.sequences)}

    def look_up(samples):
        return [
            [float(ours.problem.rewards[p, number[tuple(answer.token_ids)]]) for answer in sample.completions]
            for p, sample in enumerate(samples)
        ]

    texts = [" ".join(WORDS[token] for token in prompt) for prompt in WORLD.prompts]
    theirs = LanguageCollector(
        ours.actor,
        [Prompt(text) for text in texts],
        [WeightedReward(name="table", reward=look_up)],
        reference=reference,
        config=CollectorConfig(num_samples=12, max_new_tokens=WORLD.horizon, kl_coefficient=0.5, lam=0.8),
    ).collect(0, [0, 1])
    logits, values = read_tables(WORLD, ours.actor)
    places = torch.tensor([[number[answer] for answer in group.answers] for group in theirs.items])
    assert [group.prompt for group in theirs.items] == list(WORLD.prompts)
    prompts = torch.arange(2)[:, None].expand_as(places)
    rows = ours.trajectories(logits, values, prompts, places)
    time = theirs.trajectories.mask.shape[1]
    assert len(set(places.flatten().tolist())) > 5
    for name in ("mask", "logprobs", "rewards", "values", "next_values", "discounts", "traces"):
        torch.testing.assert_close(
            getattr(theirs.trajectories, name).double(),
            getattr(rows, name)[:, :time].double(),
            rtol=0,
            atol=1e-9,
            msg=name,
        )


# --- what the trainers make of it ----------------------------------------------------------------------


def written_out(rollout, row, *, lam):
    """Advantages and returns of a row by the definitions, as lists over its tokens."""
    rows = rollout.trajectories
    length = int(rows.mask[row].sum())
    rewards, values = (getattr(rows, name)[row, :length].tolist() for name in ("rewards", "values"))
    ahead = [*values[1:], 0.0]
    delta = [r + after - now for r, after, now in zip(rewards, ahead, values, strict=True)]
    advantages = [math.fsum(lam ** (u - t) * delta[u] for u in range(t, length)) for t in range(length)]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


@pytest.mark.parametrize("whiten", [False, True])
def test_ppo_returns_are_advantages_before_whitening_and_values(whiten):
    rollout = make().collect(0, [0, 1])
    targets = ppo.estimate(rollout, PPOConfig.of(whiten_advantages=whiten))
    mask = rollout.trajectories.mask
    returns, advantages = (getattr(targets, name).reshape(mask.shape) for name in ("returns", "advantages"))
    found, expected = [], []
    for row in range(len(mask)):
        by_hand, goals = written_out(rollout, row, lam=0.8)
        assert returns[row, : len(goals)].tolist() == pytest.approx(goals, abs=1e-12)
        found += advantages[row, : len(goals)].tolist()
        expected += by_hand
    if whiten:
        # Over the real rows alone, by their own number less one, as whitening is defined here.
        mean = math.fsum(expected) / len(expected)
        assert math.fsum(found) == pytest.approx(0.0, abs=1e-9)
        ratios = [(a - mean) / b for a, b in zip(expected, found, strict=True)]
        assert max(ratios) == pytest.approx(min(ratios), rel=1e-3)
        assert math.fsum(x * x for x in found) / len(found) == pytest.approx(1.0, rel=0.05)
    else:
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_baseline_of_a_sequence_is_the_mean_of_its_siblings():
    rollout = make(copies=2).collect(0, [0, 1, 3])
    targets = reinforce.estimate(rollout, ReinforceConfig.of(credit="return"))
    mask = rollout.trajectories.mask
    whole = [math.fsum(row) for row in rollout.trajectories.rewards.tolist()]
    for row, advantage in enumerate(targets.advantages.reshape(mask.shape)[:, 0].tolist()):
        first = row - row % 5
        siblings = [whole[other] for other in range(first, first + 5) if other != row]
        assert advantage == pytest.approx(whole[row] - math.fsum(siblings) / 4, abs=1e-12)


def test_reward_to_go_leaves_out_what_came_before():
    rollout = make().collect(0, [0, 1])
    targets = reinforce.estimate(rollout, ReinforceConfig.of(baseline="none"))
    mask = rollout.trajectories.mask
    advantages = targets.advantages.reshape(mask.shape)
    for row, rewards in enumerate(rollout.trajectories.rewards.tolist()):
        length = int(mask[row].sum())
        expected = [math.fsum(rewards[t:length]) for t in range(length)]
        assert advantages[row, :length].tolist() == pytest.approx(expected, abs=1e-12)


def everything(collector, old):
    """A rollout in which every sequence stands once, with what a policy of the table `old` records."""
    count = len(WORLD.sequences)
    prompts = torch.arange(2)[:, None].expand(2, count)
    places = torch.arange(count)[None].expand(2, count)
    values = torch.zeros(2, len(WORLD.prefixes), dtype=torch.float64)
    rows = collector.trajectories(old, values, prompts, places)
    return Rollout(
        trajectories=rows,
        items=WORLD.groups(),
        item_of_row=torch.arange(2).repeat_interleave(count)[:, None].expand(rows.mask.shape),
        metrics={},
        group_size=count,
    )


def chances(old):
    """`[2 · S]` probability of each row's sequence, over the number of prompts."""
    return torch.tensor(oracle.sequence_probabilities(WORLD, old), dtype=torch.float64).flatten() / 2


def test_the_mean_of_the_update_kl_is_the_divergence_of_the_old_policy_from_the_new():
    collector = make()
    old, new = collector.problem.reference, oracle.transformer_logits(WORLD, collector.actor.policy.model)
    rollout = everything(collector, old)
    config = PPOConfig.of(whiten_advantages=False)
    targets = ppo.estimate(rollout, config)
    total = 0.0
    for now in collector.actor.evaluate(rollout.items, [0, 1], rollout):
        parts = ppo.row_losses(now, targets=targets, config=config, beta=0.0).parts
        total += float((parts["update_kl"] * chances(old)[now.rows // WORLD.horizon]).sum().detach())
    assert total == pytest.approx(oracle.sequence_kl(WORLD, old, new), rel=1e-10)
    assert total > 0.05


def test_the_mean_of_weighted_gradients_is_the_gradient_of_the_objective():
    """Sequences of an old policy, weighed by π/μ of the whole: the mean is ∇J, however far π has gone."""
    collector = make()
    model, old = collector.actor.policy.model, collector.problem.reference
    rollout = everything(collector, old)
    config = ReinforceConfig.of(baseline="none", credit="return", weight_ceiling=0.0)
    targets = reinforce.estimate(rollout, config)
    for now in collector.actor.evaluate(rollout.items, [0, 1], rollout):
        said = reinforce.row_losses(now, targets=targets, config=config, time=WORLD.horizon)
        (said.loss * chances(old)[now.rows // WORLD.horizon]).sum().backward()
    ours = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad()
    returns = rollout.trajectories.rewards.sum(dim=1)
    policy = collector.actor.policy
    logprobs = policy.sequence_logprobs(policy.pack(WORLD.groups()))
    (-(logprobs.exp() * returns).sum() / 2).backward()
    exact = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert float((ours - exact).norm() / exact.norm()) < 1e-9


def test_the_local_kl_loss_has_the_gradient_with_the_states_held_fixed():
    """Over all sequences of an old policy: Σ_s d_old(s) ∇KL[π(·|s), ρ(·|s)], and not the sequence's KL's."""
    collector = make()
    model, old = collector.actor.policy.model, collector.problem.reference
    other = oracle.transformer_logits(WORLD, trainers.reference_llama(seed=3))
    rollout = everything(collector, old)
    config = PPOConfig.of(whiten_advantages=False, local_kl=1.0, value_coefficient=0.0)
    targets = ppo.estimate(rollout, config)
    places = torch.arange(len(WORLD.sequences)).repeat(2)
    owner = torch.arange(2).repeat_interleave(len(WORLD.sequences))
    reference = token_logprobs(WORLD, other)[owner, places].flatten()
    still = dataclasses.replace(
        targets, advantages=torch.zeros_like(targets.advantages), reference_logprobs=reference
    )
    for now in collector.actor.evaluate(rollout.items, [0, 1], rollout):
        said = ppo.row_losses(now, targets=still, config=config, beta=0.0)
        (said.loss * chances(old)[now.rows // WORLD.horizon]).sum().backward()
    ours = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    model.zero_grad()
    # The table with its graph: every state's distribution, weighed by how often the old policy is there.
    logits = torch.stack([differentiable_table(model, prompt) for prompt in WORLD.prompts])
    log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)
    local = (log_p.exp() * (log_p - log_q)).sum(-1)
    visits = torch.zeros_like(local)
    mask, states = WORLD.mask, WORLD.states
    for p in range(2):
        chance = 2 * chances(old).reshape(2, -1)[p]
        for t in range(WORLD.horizon):
            visits[p].index_add_(0, states[mask[:, t], t], chance[mask[:, t]])
    ((visits * local).sum() / 2).backward()
    exact = torch.cat([weight.grad.flatten() for weight in model.parameters()])
    assert float((ours - exact).norm() / exact.norm()) < 1e-9


def differentiable_table(model, prompt):
    """`[N, V]` logits at every prefix, by one plain forward pass each."""
    rows = []
    for prefix in WORLD.prefixes:
        rows.append(model(input_ids=torch.tensor([[*prompt, *prefix]])).logits[0, -1])
    return torch.stack(rows)


def short_run(path, **settings):
    """What PPO wrote down of three updates."""
    collector = make(num_samples=4, copies=4)
    config = PPOConfig.of(
        epochs=3, batch_size=8, update_epochs=2, minibatches=2, early_stop_factor=0.0, warmup=0.0, **settings
    )
    with RunDirectory.begin(path, {"identity": config.identity()}) as run:
        train_ppo(collector.actor, collector, config, run)
        return run.metrics


def test_the_penalty_is_adapted_once_an_update(tmp_path):
    metrics = short_run(tmp_path / "run", learning_rate=1e-6, kl_penalty=1.0)
    # So small steps stay below the target, and each update halves the penalty.
    assert [row["kl_penalty"] for row in metrics] == [0.5, 0.25, 0.125]


def test_ratios_are_to_the_policy_that_collected(tmp_path):
    metrics = short_run(tmp_path / "run", learning_rate=1e-3)
    for row in metrics:
        assert row["ratio_deviation"] > 1e-3
        assert row["update_kl"] > 1e-6
