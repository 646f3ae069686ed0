"""Every trainer on the pretended device comes to the metrics and the weights that it comes to on the CPU."""

from dataclasses import replace

import pytest
import torch

from device.pretended_device import NAME, pretended_device
from device.training_runs import LAYOUTS, MODELS, TOLERANCE, Trainer, compare, train
from logratio.training.loop import Session

TRAINERS = {
    "sft": Trainer(kind="sft"),
    "dpo": Trainer(kind="dpo"),
    "reward": Trainer(kind="reward"),
    "ppo": Trainer(kind="ppo", critic="head"),
    "reinforce": Trainer(kind="reinforce"),
}
ONCE = {"epochs": 0.5}
"""One update."""
OPTIONS = {
    "dpo, every loss's lengths": Trainer(kind="dpo", settings={"loss": "dpo-nll", "loss_weight": 0.5}),
    "dpo, without a reference": Trainer(
        kind="dpo", settings={"loss": "simpo", "loss_weight": 0.5, "beta": 2.0}
    ),
    "reward, centred": Trainer(kind="reward", settings={"centring": 0.01}),
    "ppo, everything": Trainer(
        kind="ppo",
        critic="body",
        settings={
            "value_clip": 0.2,
            "entropy_coefficient": 0.01,
            "local_kl": 0.1,
            "whiten_advantages": True,
            "critic_learning_rate": 2e-3,
            "weight_decay": 0.1,
            "max_gradient_norm": 0.1,
        },
        collecting={"target_kl": 1.0, "kl_horizon": 100.0, "truncation": "bootstrap", "lam": 0.9},
    ),
    "ppo, a penalty in the place of the clip": Trainer(
        kind="ppo", critic="head", settings={"kl_penalty": 0.5, "clip_range": 0.0}
    ),
    "ppo, without a reference": Trainer(kind="ppo", critic="head", reference=False),
    "ppo, rewards less their siblings'": Trainer(
        kind="ppo", critic="head", collecting={"reward_baseline": "group", "truncated_reward": "worst"}
    ),
} | {
    f"reinforce, {baseline}, weights by {weights}": Trainer(
        kind="reinforce",
        critic="head" if baseline == "critic" else "",
        greedy=baseline == "greedy",
        reference=weights != "none",
        settings={
            "baseline": baseline,
            "weights": weights,
            "minibatches": 2,
            "reduction": reduction,
            "credit": "return" if baseline == "batch-mean" else "reward-to-go",
        },
    )
    for baseline, weights, reduction in (
        ("none", "none", "sums"),
        ("batch-mean", "token", "tokens"),
        ("leave-one-out", "sequence", "sums"),
        ("group-centred", "sequence", "sequences"),
        ("greedy", "token", "sums"),
        ("critic", "sequence", "sums"),
    )
}


def both(trainer, name, **settings):
    """The same run on the CPU and on the device."""
    here = train(trainer, name, "cpu", **settings)
    with pretended_device():
        return here, train(trainer, name, NAME, **settings)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", TRAINERS)
def test_every_trainer_and_architecture(kind, name):
    trainer = replace(TRAINERS[kind], settings=ONCE)
    here, there = both(trainer, name)
    compare(here, there, TOLERANCE[name])
    assert there.layout == LAYOUTS[name]


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option(option):
    trainer = OPTIONS[option]
    compare(*both(replace(trainer, settings=trainer.settings | ONCE), "llama"), TOLERANCE["llama"])


@pytest.mark.parametrize("kind", TRAINERS)
def test_adapters_and_activations_computed_again(kind):
    trainer = replace(TRAINERS[kind], settings=ONCE)
    here, there = both(trainer, "qwen3", lora=True, computing={"recompute_activations": True})
    compare(here, there, TOLERANCE["qwen3"])


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_device_without_float64(kind):
    trainer = replace(TRAINERS[kind], settings=ONCE)
    here = train(trainer, "llama", "cpu", dtype=torch.float32)
    with pretended_device(has_float64=False):
        there = train(trainer, "llama", NAME, dtype=torch.float32)
    compare(here, there, 1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("kind", TRAINERS)
def test_products_in_bfloat16(kind, name):
    trainer, computing = replace(TRAINERS[kind], settings=ONCE), {"precision": "bf16"}
    with pretended_device(has_float64=False):
        there = train(trainer, name, NAME, dtype=torch.float32, computing=computing)
    assert all(bool(torch.isfinite(weight).all()) for weight in there.weights.values())
    # What is drawn hangs on the last bit of a product: others learn from the same answers on every device.
    if name == "llama" and kind in ("sft", "dpo"):
        compare(train(trainer, name, "cpu", dtype=torch.float32, computing=computing), there, 5e-2)


class Killed(Exception):
    """A run ended behind its first checkpoint."""


@pytest.mark.parametrize("kind", TRAINERS)
def test_a_run_that_was_stopped_goes_on_bit_for_bit(kind, tmp_path, monkeypatch):
    checkpoint = Session.checkpoint

    def checkpoint_and_die(session):
        checkpoint(session)
        raise Killed

    trainer = replace(TRAINERS[kind], settings={"checkpoint_every": 1})
    with pretended_device():
        whole = train(trainer, "llama", NAME)
        monkeypatch.setattr(Session, "checkpoint", checkpoint_and_die)
        with pytest.raises(Killed):
            train(trainer, "llama", NAME, path=tmp_path / "run")
        monkeypatch.undo()
        resumed = train(trainer, "llama", NAME, path=tmp_path / "run", resume=True)
    assert len(whole.metrics) == 2
    compare(whole, resumed, 0.0)
