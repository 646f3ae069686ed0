"""Each invariant broken on purpose: the run stops with its name."""

from dataclasses import replace

import pytest
import torch

from logratio.algorithms import dpo
from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.errors import InvariantViolated, NonFiniteGradient, NonFiniteLoss, ReferenceAliased
from logratio.kernels import block_diagonal_sdpa, fused_decoder
from logratio.kernels.packed_attention import SegmentAttention
from logratio.packed_rows import AnswerGroup, Span
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from logratio.training import invariants, loop
from logratio.training.end_tokens import check_end_token_carries_loss
from logratio.training.layout_check import recompute_sampled, select_layout
from tiny_models import random_groups, tiny_llama

VOCABULARY = 50


@pytest.fixture
def policy():
    return LanguagePolicy(tiny_llama(VOCABULARY), None)


@pytest.fixture
def groups():
    return random_groups(12, vocab_size=VOCABULARY)


def run_dpo(policy, groups, path, **settings):
    config = DPOConfig.of(batch_size=4, learning_rate=1e-3, **settings)
    with RunDirectory.begin(path, {"identity": config.identity()}) as run:
        train_dpo(policy, groups, config, run)
    return run


def weights(policy):
    return {name: value.detach().clone() for name, value in policy.model.named_parameters()}


def test_an_unbroken_run_records_the_laws_that_held(policy, groups, tmp_path):
    run = run_dpo(policy, groups, tmp_path / "run")
    held = (run.path / "invariants.json").read_text()
    for invariant in (
        "packed_equals_unpacked",
        "step_zero_loss",
        "step_zero_rewards",
        "accumulation_equals_batch",
        "reference_unchanged",
    ):
        assert invariant in held
    assert run.metrics[0]["loss"] == pytest.approx(0.6931, abs=1e-4)


def test_a_wrong_reference_stops_before_the_first_update(policy, groups, tmp_path, monkeypatch):
    other = LanguagePolicy(tiny_llama(VOCABULARY, seed=1), None)
    honest = dpo.reference_logprobs
    monkeypatch.setattr(dpo, "reference_logprobs", lambda policy, *rest, **more: honest(other, *rest, **more))
    before = weights(policy)
    with pytest.raises(InvariantViolated, match="step_zero_rewards") as caught:
        run_dpo(policy, groups, tmp_path / "run")
    assert "step 0" in caught.value.where
    assert all(torch.equal(value, before[name]) for name, value in weights(policy).items())


def test_a_wrong_loss_stops_before_the_first_update(policy, groups, tmp_path, monkeypatch):
    honest = dpo.pair_losses
    monkeypatch.setattr(dpo, "pair_losses", lambda pair, config: honest(pair, config) + 0.01)
    with pytest.raises(InvariantViolated, match="step_zero_loss"):
        run_dpo(policy, groups, tmp_path / "run")


def test_a_part_divided_by_its_own_count(policy, groups, tmp_path, monkeypatch):
    honest = dpo.pair_losses

    def by_own_count(pair, config):
        losses = honest(pair, config)
        return losses * (4 / len(losses)) if losses.requires_grad else losses

    monkeypatch.setattr(dpo, "pair_losses", by_own_count)
    with pytest.raises(InvariantViolated, match="accumulation_equals_batch"):
        run_dpo(policy, groups, tmp_path / "run", row_tokens=1)


def test_a_reference_that_moves(policy, groups, tmp_path, monkeypatch):
    honest = dpo.reference_logprobs
    kept = []

    def keep(*arguments, **settings):
        kept.append(honest(*arguments, **settings))
        return kept[0]

    update = loop.Session.update

    def move_both(self, step, examples, metrics):
        update(self, step, examples, metrics)
        kept[0] += 0.01

    monkeypatch.setattr(dpo, "reference_logprobs", keep)
    monkeypatch.setattr(loop.Session, "update", move_both)
    with pytest.raises(InvariantViolated, match="reference_unchanged"):
        run_dpo(policy, groups, tmp_path / "run")


def test_shared_storage_is_found(policy):
    state = policy.model.state_dict()
    with pytest.raises(ReferenceAliased):
        invariants.check_reference_is_separate(state, policy.model.state_dict())
    invariants.check_reference_is_separate(state, {name: value.clone() for name, value in state.items()})


def test_a_mask_that_leaks_is_noticed_and_answers_are_computed_apart(policy, groups, monkeypatch, capsys):
    exact = LanguagePolicy(policy.model, None, layout="unpacked")
    expected = exact.sequence_logprobs(exact.pack(groups)).detach()

    def causal(spans, num_tokens):
        return torch.ones(num_tokens, num_tokens, dtype=torch.bool).tril()[None, None]

    def leaky(spans, **settings):
        end = spans[-1].start + spans[-1].num_tokens
        return SegmentAttention((Span(0, end, ()),), **settings)

    monkeypatch.setattr(block_diagonal_sdpa, "segment_mask", causal)
    monkeypatch.setattr(fused_decoder, "SegmentAttention", leaky)
    rows = policy.pack(groups)
    leaked = policy.sequence_logprobs(rows).detach()
    lengths = torch.ones_like(leaked)
    with pytest.raises(InvariantViolated, match="packed_equals_unpacked"):
        invariants.check_packed_equals_unpacked(leaked, expected, lengths, step=0)
    select_layout(policy, groups)
    assert policy.layout == "unpacked"
    assert "computed apart" in capsys.readouterr().err
    assert torch.allclose(policy.sequence_logprobs(policy.pack(groups)), expected, atol=1e-5)


def test_logprobs_recorded_at_another_temperature(policy):
    group = AnswerGroup((3, 4, 5), ((6, 7, 0),))
    logits = policy.model(input_ids=torch.tensor([[3, 4, 5, 6, 7, 0]])).logits[0, 2:5].detach()
    targets = torch.tensor([6, 7, 0])[:, None]
    honest = logits.log_softmax(-1).gather(-1, targets)[:, 0].tolist()
    assert recompute_sampled(policy, [group], [honest]).value < 1e-5
    cooled = (logits / 0.7).log_softmax(-1).gather(-1, targets)[:, 0].tolist()
    with pytest.raises(InvariantViolated, match="sampled_equals_recomputed"):
        recompute_sampled(policy, [group], [cooled])


@pytest.mark.parametrize(
    ("answer", "finished", "holds"),
    [((5, 0), True, True), ((5, 6), True, False), ((0, 5, 0), True, False), ((5, 6), False, True)],
)
def test_a_finished_answer_ends_in_one_end_token(answer, finished, holds):
    group = AnswerGroup((3,), (answer,))
    if holds:
        check_end_token_carries_loss([group], [[finished]], {0})
    else:
        with pytest.raises(InvariantViolated, match="end_token_carries_loss"):
            check_end_token_carries_loss([group], [[finished]], {0})


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_before_the_update(policy, groups, tmp_path, bad):
    with torch.no_grad():
        policy.model.model.norm.weight[0] = bad
    before = weights(policy)
    config = SFTConfig.of(batch_size=4)
    single = [replace(group, answers=group.answers[:1]) for group in groups]
    with (
        RunDirectory.begin(tmp_path / "run", {"identity": config.identity()}) as run,
        pytest.raises(NonFiniteLoss) as caught,
    ):
        train_sft(policy, single, config, run)
    assert "step 0, example" in caught.value.where
    assert all(
        torch.equal(value.nan_to_num(7.0), before[name].nan_to_num(7.0))
        for name, value in weights(policy).items()
    )


def test_a_gradient_that_is_not_finite_stops_before_the_update(policy, groups, tmp_path):
    policy.model.model.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = weights(policy)
    with pytest.raises(NonFiniteGradient):
        run_dpo(policy, groups, tmp_path / "run")
    assert all(torch.equal(value, before[name]) for name, value in weights(policy).items())


def test_a_negative_exact_kl():
    assert invariants.check_exact_kl_not_negative([0.0, 1e-3]).value == 0.0
    with pytest.raises(InvariantViolated, match="exact_kl_not_negative"):
        invariants.check_exact_kl_not_negative([0.5, -0.01])


def test_fine_tuning_in_parts_adds_up_to_the_batch(policy, tmp_path):
    groups = random_groups(12, vocab_size=VOCABULARY, num_answers=1)
    config = SFTConfig.of(batch_size=4, learning_rate=1e-3, row_tokens=1)
    with RunDirectory.begin(tmp_path / "run", {"identity": config.identity()}) as run:
        train_sft(policy, groups, config, run)
        assert "accumulation_equals_batch" in (run.path / "invariants.json").read_text()


def test_a_ratio_off_one_before_the_first_step():
    assert invariants.check_ratio_is_one(1e-6, step=3).value == 1e-6
    for deviation in (2e-4, float("nan")):
        with pytest.raises(InvariantViolated, match="ratio_is_one") as caught:
            invariants.check_ratio_is_one(deviation, step=3)
        assert caught.value.where == "step 3"


@pytest.mark.parametrize(
    "invariant", [invariants.check_update_kl_is_zero, invariants.check_reference_kl_is_zero]
)
def test_a_divergence_before_the_first_step(invariant):
    assert invariant(1e-9, step=0).limit == 1e-6
    for value in (1e-5, -1e-5, float("nan")):
        with pytest.raises(InvariantViolated, match=invariant.__name__.removeprefix("check_")):
            invariant(value, step=0)
