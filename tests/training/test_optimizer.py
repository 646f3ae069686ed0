"""Learning rate, decay groups, clipping."""

import copy
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from logratio.errors import BadConfig
from logratio.kernels.fused_layers import EmbeddingLookup, apply_function
from logratio.training.config import TrainingConfig
from logratio.training.optimizer import TABLE, build_optimizer, clip_gradient, learning_rate_at
from tiny_models import tiny_llama


def rates(**settings):
    config = TrainingConfig.of(learning_rate=1.0, **settings)
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
    optimizer = build_optimizer(model, TrainingConfig.of(weight_decay=0.1))
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


def filled(parameters, seed):
    """Gradients drawn from the seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_clipping_is_what_pytorch_does():
    ours = [torch.nn.Parameter(torch.zeros(3, 4)), torch.nn.Parameter(torch.zeros(5))]
    theirs = copy.deepcopy(ours)
    for bound in (0.5, 3.0, 100.0):
        filled(ours, 1)
        filled(theirs, 1)
        norm = torch.nn.utils.clip_grad_norm_(theirs, bound)
        assert clip_gradient(ours, max_norm=bound) == pytest.approx(float(norm))
        for one, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(one.grad, other.grad)
    assert clip_gradient([torch.nn.Parameter(torch.zeros(3))], max_norm=1.0) == 0.0


@pytest.mark.parametrize("read", [0, 1, 3, 4000, TABLE])
@pytest.mark.parametrize("others", [0, 2])
def test_a_table_is_clipped_as_all_other_weights(read, others):
    """A vocabulary's, of which some rows were read; PyTorch scales every number."""
    ours = [torch.nn.Parameter(torch.zeros(TABLE, 3)), *(torch.nn.Parameter(torch.zeros(5, 2)),) * others]
    theirs = copy.deepcopy(ours)
    filled(ours, 2)
    unread = torch.randperm(TABLE, generator=torch.Generator().manual_seed(0))[read:]
    ours[0].grad[unread] = 0.0
    for one, other in zip(ours, theirs, strict=True):
        other.grad = one.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    assert clip_gradient(ours, max_norm=0.5) == pytest.approx(float(norm), rel=1e-6)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-5, atol=0.0)


def test_a_table_with_a_row_that_is_no_number_has_no_norm():
    table = torch.nn.Parameter(torch.zeros(TABLE, 3))
    table.grad = torch.zeros_like(table)
    table.grad[7, 1] = math.nan
    assert math.isnan(clip_gradient([table], max_norm=1.0))


def resident_megabytes():
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem"))) / 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_rows_that_nobody_read_take_no_memory():
    """Of a gradient of 256 million bytes, from its making to its clipping."""
    table = torch.nn.Parameter(torch.zeros(250_000, 256))
    before = resident_megabytes()
    apply_function(EmbeddingLookup, table, torch.tensor([5, 70_000, 5]), True).sum().backward()
    # Two rows, of which one is met twice.
    assert clip_gradient([table], max_norm=1.0) == pytest.approx((256 * (4 + 1)) ** 0.5)
    assert resident_megabytes() - before < 60.0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_the_optimiser_is_pytorch_s_adamw_bit_for_bit(decay):
    config = TrainingConfig.of(weight_decay=decay, learning_rate=1e-2)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    ours = build_optimizer(model, config)
    decayed = [parameter for parameter in twin.parameters() if parameter.ndim == 2]
    plain = [parameter for parameter in twin.parameters() if parameter.ndim == 1]
    betas = {
        "betas": (config.optimizer.adam_beta1, config.optimizer.adam_beta2),
        "eps": config.optimizer.adam_epsilon,
    }
    theirs = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": decay}, {"params": plain, "weight_decay": 0.0}],
        **{"lr": 1e-2, "fused": True, **betas},
    )
    for step in range(5):
        filled(model.parameters(), step)
        filled(twin.parameters(), step)
        ours.step()
        theirs.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_weights_of_two_number_formats_are_moved_as_pytorch_moves_them():
    """A critic's head in float32 beside a model in bfloat16; one weight has no gradient at first."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4).bfloat16(), torch.nn.Linear(4, 2))
    twin = copy.deepcopy(model)
    config = TrainingConfig.of(learning_rate=1e-2)
    ours = build_optimizer(model, config)
    betas = {
        "betas": (config.optimizer.adam_beta1, config.optimizer.adam_beta2),
        "eps": config.optimizer.adam_epsilon,
    }
    theirs = torch.optim.AdamW(twin.parameters(), lr=1e-2, weight_decay=0.0, fused=True, **betas)
    for step in range(4):
        generator = torch.Generator().manual_seed(step)
        for number, (one, other) in enumerate(zip(model.parameters(), twin.parameters(), strict=True)):
            gradient = torch.randn(one.shape, generator=generator).to(one.dtype)
            one.grad, other.grad = (None, None) if number == 2 and step < 2 else (gradient, gradient.clone())
        ours.step()
        theirs.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_state_that_is_loaded_is_the_one_that_goes_on():
    config = TrainingConfig.of(learning_rate=1e-2)
    model = torch.nn.Linear(3, 4)
    ours = build_optimizer(model, config)
    filled(model.parameters(), 0)
    ours.step()
    saved, weights = copy.deepcopy(ours.state_dict()), copy.deepcopy(model.state_dict())
    after = []
    for _ in range(2):
        filled(model.parameters(), 1)
        ours.step()
        after.append(torch.cat([parameter.detach().flatten() for parameter in model.parameters()]))
        ours.load_state_dict(saved)
        model.load_state_dict(weights)
    assert torch.equal(*after)


def test_an_update_does_not_import_pytorch_s_compiler():
    """It takes seconds, of which nothing comes: nothing here is compiled."""
    script = """
import sys, torch
from logratio.training.optimizer import build_optimizer, clip_gradient
from logratio.training.config import TrainingConfig
layer = torch.nn.Linear(2, 1)
optimizer = build_optimizer(layer, TrainingConfig())
layer(torch.ones(1, 2)).sum().backward()
clip_gradient(layer.parameters(), max_norm=1.0)
optimizer.step()
optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


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
        TrainingConfig.of(**{setting: value})
