"""Learning rate, decay groups, clipping."""

import math

import pytest
import torch

from logratio.errors import BadConfig
from logratio.training.optimisation import build_optimizer, clip_gradient, learning_rate_at
from logratio.training.settings import TrainingConfig
from tiny import tiny_llama


def rates(**settings):
    config = TrainingConfig(learning_rate=1.0, **settings)
    return [learning_rate_at(step, num_steps=10, config=config) for step in range(10)]


def test_linear_rise_then_each_schedule():
    assert rates(warmup=0.2, schedule="constant") == [0.5, 1.0] + [1.0] * 8
    linear = rates(warmup=0.2, schedule="linear")
    assert linear[:3] == [0.5, 1.0, 1.0]
    assert linear[-1] == pytest.approx(1 / 8)
    cosine = rates(warmup=0.0, schedule="cosine")
    assert cosine == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)])


def test_no_rate_is_zero():
    for schedule in ("constant", "cosine", "linear"):
        assert min(rates(warmup=0.3, schedule=schedule)) > 0


def test_norms_biases_and_embeddings_are_not_decayed():
    model = tiny_llama(40)
    optimizer = build_optimizer(model, TrainingConfig(weight_decay=0.1))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decay = {
        names[id(parameter)]: group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    assert decay.keys() == set(names.values())
    assert {name for name, value in decay.items() if value == 0.0} == {
        name for name in decay if "norm" in name or "embed" in name
    }


def test_clipping_scales_all_gradients_to_one_norm():
    parameters = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(4))]
    for parameter in parameters:
        parameter.grad = torch.full_like(parameter, 2.0)
    before = math.sqrt(4 * 7)
    assert clip_gradient(parameters, max_norm=0.0) == pytest.approx(before)
    assert clip_gradient(parameters, max_norm=1.0) == pytest.approx(before)
    assert clip_gradient(parameters, max_norm=0.0) == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("epochs", -1.0),
        ("batch_size", 0),
        ("warmup", 1.5),
    ],
)
def test_settings_out_of_range_are_named(setting, value):
    with pytest.raises(BadConfig, match=setting):
        TrainingConfig(**{setting: value})
