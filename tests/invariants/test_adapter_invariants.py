"""Invariants of runs that train an adapter, each broken on purpose."""

import json

import pytest
import torch

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.errors import InvariantViolated
from logratio.models.loading import weights_fingerprint
from logratio.models.lora import BASE, POLICY, active_adapter, adapter_parameters, add_adapter
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from logratio.training import export, loop
from logratio.training.export import save_trained
from tiny_models import random_groups, tiny_llama, tiny_tokenizer

VOCABULARY = 50


@pytest.fixture
def policy():
    model = tiny_llama(VOCABULARY)
    add_adapter(model, rank=4, alpha=8, seed=0)
    return LanguagePolicy(model, None)


def run_dpo(policy, path, **settings):
    config = DPOConfig.of(batch_size=4, learning_rate=1e-2, **settings)
    with RunDirectory.begin(path, {"identity": config.identity()}) as run:
        train_dpo(policy, random_groups(12, vocab_size=VOCABULARY), config, run)
    return run


def test_the_base_is_the_same_after_training_as_before(policy, tmp_path):
    before = weights_fingerprint(tiny_llama(VOCABULARY))
    run = run_dpo(policy, tmp_path / "run")
    assert {"step_zero_loss", "step_zero_rewards", "reference_unchanged"} <= {
        invariant["name"] for invariant in json.loads((run.path / "invariants.json").read_text())
    }
    assert weights_fingerprint(policy.model, trainable=False) == before
    assert any(
        float(weight.detach().abs().max()) > 0 for weight in adapter_parameters(policy.model, POLICY)[1::2]
    )


def test_a_base_that_moves_stops_the_run(policy, tmp_path, monkeypatch):
    update = loop.Session.update

    def move_the_base_too(self, step, examples, metrics):
        update(self, step, examples, metrics)
        with torch.no_grad():
            self.model.model.layers[0].mlp.up_proj.get_base_layer().weight[0, 0] += 1e-6

    monkeypatch.setattr(loop.Session, "update", move_the_base_too)
    with pytest.raises(InvariantViolated, match="reference_unchanged"):
        run_dpo(policy, tmp_path / "run")


def test_an_adapter_that_is_not_new_is_no_start_from_the_base(policy, tmp_path, monkeypatch):
    """The wrong reference of an adapter that is continued: the bare base in the place of the start."""
    from logratio.algorithms import dpo

    with torch.no_grad():
        for weight in adapter_parameters(policy.model, POLICY):
            weight.add_(0.1)
    honest = dpo.reference_logprobs
    bare = LanguagePolicy(policy.model, None, adapter=BASE)
    monkeypatch.setattr(
        dpo, "reference_logprobs", lambda _policy, *rest, **settings: honest(bare, *rest, **settings)
    )
    with pytest.raises(InvariantViolated, match="step_zero"):
        run_dpo(policy, tmp_path / "run")


def test_an_adapter_folded_in_wrongly_is_not_saved_as_the_model(tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(len(tokenizer))
    add_adapter(model, rank=4, alpha=8, seed=0, base="somewhere")
    with torch.no_grad():
        for weight in adapter_parameters(model, POLICY):
            weight.add_(0.1)
    honest = export.merge_adapter

    def twice(model):
        for layer in [module for module in model.modules() if hasattr(module, "lora_A")]:
            weight = layer.get_base_layer().weight
            weight.data += layer.get_delta_weight(POLICY)
        return honest(model)

    monkeypatch.setattr(export, "merge_adapter", twice)
    with (
        RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run,
        pytest.raises(InvariantViolated, match="merged_equals_adapter"),
    ):
        save_trained(model, tokenizer, run)
    assert run.adapter_path.exists()
    assert not run.model_path.exists()


def test_a_run_leaves_the_adapter_in_use(policy, tmp_path):
    run_dpo(policy, tmp_path / "run")
    assert active_adapter(policy.model) == POLICY
