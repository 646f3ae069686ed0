"""The DPO trainer against values known exactly."""

import math
from typing import get_args

import pytest
import torch

from logratio.algorithms.dpo import DPOConfig, Loss, PairLogprobs, loss_at_reference, pair_losses, train_dpo
from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.errors import BadConfig
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from tiny_models import exact_llama, random_groups, tiny_llama

VOCABULARY = 50
# The golden vectors' pairs: see tests/objectives.
PAIR = PairLogprobs(
    *(
        torch.tensor(values, dtype=torch.float64)
        for values in (
            [-0.5, -10, -1, -120.3],
            [-0.1, -30, -21, -90.7],
            [-0.5, -10.1, -0.1, -118],
            [-0.1, -20.1, -0.1, -95],
        )
    ),
    torch.tensor([1, 5, 2, 40]),
    torch.tensor([1, 12, 9, 31]),
    torch.ones(4, dtype=torch.float64),
)
GOLDEN = {
    "dpo": ({}, [0.6931471806, 0.3132616875, 0.1269280110, 1.0766366959]),
    "dpo, smoothed": ({"label_smoothing": 0.1}, [0.6931471806, 0.4132616875, 0.3269280110, 1.0106366959]),
    "robust": ({"label_smoothing": 0.1}, [0.6931471806, 0.1882616875, -0.1230719890, 1.1591366959]),
    "ipo": ({}, [25.0, 25.0, 225.0, 134.56]),
    "ipo-mean": ({}, [25.0, 17.2640250000, 9.7829938272, 27.0005950117]),
    "hinge": ({}, [1.0, 0.0, 0.0, 1.66]),
    "length-normalised": ({"beta": 5.0}, [0.6931471806, 0.0145194160, 0.0000860008, 1.2994423591]),
    "simpo": ({"beta": 2.0, "loss_weight": 1.0}, [1.9529776105, 0.6931471806, 0.0671757760, 1.4352645585]),
    "dpop": ({"loss_weight": 5.0}, [0.6931471806, 0.3132616875, 0.1924764656, 1.9615651718]),
    "dpo-nll": ({"loss_weight": 1.0}, [1.1931471806, 2.3132616875, 0.6269280110, 4.0841366959]),
    "apo-zero": ({}, [1.0, 0.7684120985, 0.6325573992, 1.1631215230]),
}


@pytest.mark.parametrize("name", GOLDEN)
def test_the_configured_loss_is_the_one_computed(name):
    settings, expected = GOLDEN[name]
    config = DPOConfig.of(loss=name.split(",")[0], **settings)
    assert pair_losses(PAIR, config).tolist() == pytest.approx(expected, abs=1e-9)


def test_orpo_through_the_trainers_table():
    config = DPOConfig.of(loss="orpo", loss_weight=0.1)
    odds = torch.tensor([1.9696625541, 0.4519316040, 0.0673437868, 0.7371383569], dtype=torch.float64)
    expected = -PAIR.chosen / PAIR.chosen_lengths + 0.1 * odds
    assert pair_losses(PAIR, config).tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_the_loss_at_the_reference_is_what_the_loss_gives_there():
    same = PAIR._replace(reference_chosen=PAIR.chosen, reference_rejected=PAIR.rejected)
    for loss in get_args(Loss):
        weight = 1.0 if loss in ("simpo", "orpo", "dpop", "dpo-nll") else 0.0
        config = DPOConfig.of(loss=loss, loss_weight=weight)
        expected = loss_at_reference(config)
        if expected is not None:
            assert pair_losses(same, config).tolist() == pytest.approx([expected] * 4, abs=1e-9)


def final_weights(tmp_path, name, *, layout="packed", **settings):
    model = exact_llama(VOCABULARY)
    policy = LanguagePolicy(model, None, layout=layout)
    config = DPOConfig.of(learning_rate=1e-3, adam_epsilon=1e-3, **settings)
    groups = random_groups(16, vocab_size=VOCABULARY)
    with RunDirectory.begin(tmp_path / name, {"identity": config.identity()}) as run:
        train_dpo(policy, groups, config, run)
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]), run.metrics


def test_a_batch_of_8_equals_8_accumulated_equals_packed(tmp_path):
    """Three ways to compute the same two updates end in the same weights."""
    whole, metrics = final_weights(tmp_path, "whole", batch_size=8, row_tokens=10_000)
    accumulated, _ = final_weights(tmp_path, "accumulated", batch_size=8, row_tokens=1)
    apart, _ = final_weights(tmp_path, "unpacked", batch_size=8, layout="unpacked")
    start = torch.cat([parameter.detach().reshape(-1) for parameter in exact_llama(VOCABULARY).parameters()])
    assert (whole - start).abs().max() > 1e-4
    assert (whole - accumulated).abs().max() < 1e-10
    assert (whole - apart).abs().max() < 1e-10
    assert len(metrics) == 2


def test_the_first_gradient_is_minus_half_beta_times_the_difference_of_scores(tmp_path):
    """D1: at the reference, ∇L = −(β/2)·mean(∇log π(y_w) − ∇log π(y_l))."""
    groups = random_groups(6, vocab_size=VOCABULARY)
    model = exact_llama(VOCABULARY)
    policy = LanguagePolicy(model, None, layout="unpacked")
    logprobs = policy.sequence_logprobs(policy.pack(groups)).reshape(-1, 2)
    score = torch.autograd.grad((logprobs[:, 0] - logprobs[:, 1]).mean(), list(model.parameters()))
    norm = math.sqrt(sum(float(part.square().sum()) for part in score))
    config = DPOConfig.of(batch_size=6, beta=0.3)
    with RunDirectory.begin(tmp_path / "run", {"identity": config.identity()}) as run:
        train_dpo(policy, groups, config, run)
    assert run.metrics[0]["gradient_norm"] == pytest.approx(0.15 * norm, rel=1e-7)


def test_loss_is_ln_2_directly_after_sft_in_the_same_process(tmp_path):
    """The reference is the model as it stands, not the one it was loaded as."""
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)
    groups = random_groups(16, vocab_size=VOCABULARY)
    sft = SFTConfig.of(learning_rate=1e-2, epochs=3)
    with RunDirectory.begin(tmp_path / "sft", {"identity": sft.identity()}) as run:
        train_sft(policy, [AnswerGroup(group.prompt, group.answers[:1]) for group in groups], sft, run)
        assert run.metrics[-1]["loss"] < 0.8 * run.metrics[0]["loss"]
    config = DPOConfig.of(learning_rate=1e-2)
    with RunDirectory.begin(tmp_path / "dpo", {"identity": config.identity()}) as run:
        train_dpo(policy, groups, config, run)
        first = run.metrics[0]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert first["margin"] == pytest.approx(0.0, abs=1e-4)


def test_dpo_learns_the_preference(tmp_path):
    """Every chosen answer ends up preferred, and both rewards are reported apart."""
    policy = LanguagePolicy(tiny_llama(VOCABULARY), None)
    config = DPOConfig.of(learning_rate=3e-3, epochs=12)
    with RunDirectory.begin(tmp_path / "dpo", {"identity": config.identity()}) as run:
        train_dpo(policy, random_groups(16, vocab_size=VOCABULARY), config, run)
        last = run.metrics[-1]
    assert last["accuracy"] == 1.0
    assert last["margin"] == pytest.approx(last["chosen_reward"] - last["rejected_reward"], abs=1e-6)
    assert last["gradient_weight"] < 0.45


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"beta": 0.0}, "--beta"),
        ({"label_smoothing": 0.1, "loss": "hinge"}, "--label-smoothing"),
        ({"loss": "simpo"}, "--loss-weight"),
        ({"loss": "dpo", "loss_weight": 1.0}, "--loss-weight"),
        ({"label_smoothing": 0.5}, "--label-smoothing"),
    ],
)
def test_contradictory_settings_are_refused(settings, flag):
    with pytest.raises(BadConfig) as caught:
        DPOConfig.of(**settings)
    assert caught.value.where == flag
