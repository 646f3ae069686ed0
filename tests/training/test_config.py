"""Configuration by composition: components, and settings by their own names."""

import pytest

from logratio.algorithms.dpo import DPOConfig
from logratio.algorithms.ppo import PPOConfig
from logratio.errors import BadConfig
from logratio.training.config import LoopConfig, OptimizerConfig, OutputConfig, TrainingConfig


def test_of_is_the_composition():
    composed = DPOConfig(
        beta=0.3, optimizer=OptimizerConfig(learning_rate=1e-6), loop=LoopConfig(batch_size=2, seed=4)
    )
    assert DPOConfig.of(beta=0.3, learning_rate=1e-6, batch_size=2, seed=4) == composed


def test_of_starts_from_the_algorithm_s_own_components():
    """A policy gradient computes fewer tokens at a time and saves more often than the others."""
    config = PPOConfig.of(batch_size=2, keep_checkpoints=3)
    assert config.loop == LoopConfig(batch_size=2, row_tokens=512)
    assert config.output == OutputConfig(keep_checkpoints=3, checkpoint_every=10)


def test_replace_keeps_the_rest():
    config = PPOConfig.of(learning_rate=1e-4, epochs=3, clip_range=0.1)
    changed = config.replace(epochs=5, value_coefficient=0.2)
    assert changed == PPOConfig.of(learning_rate=1e-4, epochs=5, clip_range=0.1, value_coefficient=0.2)


def test_the_identity_is_flat_and_leaves_out_what_may_change():
    identity = DPOConfig.of(row_tokens=77, checkpoint_every=3).identity()
    assert identity == DPOConfig().identity()
    assert identity["learning_rate"] == 1e-5
    assert identity["beta"] == 0.1
    assert not {"row_tokens", "checkpoint_every", "optimizer", "loop", "output"} & set(identity)


def test_a_name_that_is_no_setting_is_refused_with_those_that_are():
    with pytest.raises(BadConfig, match="no setting 'learning_rte'") as raised:
        TrainingConfig.of(learning_rte=1e-6)
    assert "learning_rate" in raised.value.action
    with pytest.raises(BadConfig, match="no setting"):
        DPOConfig().replace(clip_range=0.2)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        *(("learning_rate", 0.0), ("warmup", 1.5), ("adam_beta1", -0.1), ("weight_decay", -1.0)),
        *(("epochs", 0), ("batch_size", 0), ("seed", -1), ("keep_checkpoints", 0), ("checkpoint_every", -1)),
    ],
)
def test_a_component_refuses_what_is_out_of_range(setting, value):
    with pytest.raises(BadConfig, match=setting):
        TrainingConfig.of(**{setting: value})
