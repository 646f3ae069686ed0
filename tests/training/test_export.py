"""A finished run's model is plain and is what was trained, with the adapter beside it."""

import json

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from logratio.models.loading import load, save
from logratio.models.lora import POLICY, adapter_parameters, add_adapter
from logratio.models.lora_files import CONFIG
from logratio.models.reward_model import load_for_training, load_reward_model
from logratio.run_directory import RunDirectory
from logratio.training import export
from logratio.training.export import record_invariant, save_trained
from logratio.training.invariants import InvariantResult
from tiny_models import tiny_llama, tiny_tokenizer

IDS = torch.arange(2, 40)[None]
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


@pytest.fixture
def base(tmp_path):
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def run(tmp_path):
    with RunDirectory.begin(tmp_path / "run", {"identity": {}}) as run:
        yield run


def adapt(model, base):
    add_adapter(model, rank=4, alpha=8, seed=0, base=str(base))
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in adapter_parameters(model, POLICY):
            weight.add_(0.1 * torch.randn(weight.shape))
    return model


def held(run):
    return {
        invariant["name"]: invariant for invariant in json.loads((run.path / export.INVARIANTS).read_text())
    }


def test_the_model_is_plain_and_the_adapter_stands_beside_it(base, run):
    loaded = load(str(base))
    model = adapt(loaded.model, base)
    expected = logits(model)
    save_trained(model, loaded.tokenizer, run)
    opened = [
        load(str(run.model_path)).model,
        AutoModelForCausalLM.from_pretrained(run.model_path, dtype=torch.float32),
        load(str(run.adapter_path)).model,
        peft.PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), run.adapter_path
        ),
    ]
    for one in opened:
        torch.testing.assert_close(logits(one), expected, rtol=0, atol=1e-4)
    assert not list(run.model_path.glob("adapter*"))
    assert 0 < held(run)["merged_equals_adapter"]["value"] < 1e-5


def test_a_model_without_an_adapter_is_saved_as_before(base, run):
    loaded = load(str(base))
    save_trained(loaded.model, loaded.tokenizer, run)
    assert torch.equal(logits(load(str(run.path)).model), logits(loaded.model))
    assert not run.adapter_path.exists()


def test_a_reward_model_s_head_goes_with_its_adapter(base, run):
    scorer = load_for_training(str(base), seed=0)
    model = adapt(scorer.model, base)
    model.score.requires_grad_(True)
    with torch.no_grad():
        model.score.weight.mul_(3)
    expected = logits(model)
    save_trained(model, scorer.tokenizer, run)
    assert json.loads((run.adapter_path / CONFIG).read_text())["modules_to_save"] == ["score"]
    plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
    for one in (
        load_reward_model(str(run.path)).model,
        peft.PeftModel.from_pretrained(plain, run.adapter_path),
    ):
        torch.testing.assert_close(logits(one), expected, rtol=0, atol=1e-4)


def test_a_law_that_held_stands_beside_the_others_once(run):
    for name, value in (("one", 1.0), ("two", 2.0), ("one", 3.0)):
        record_invariant(run, InvariantResult(invariant=name, value=value, limit=9.0, step=0))
    assert {name: invariant["value"] for name, invariant in held(run).items()} == {"one": 3.0, "two": 2.0}
    assert len(json.loads((run.path / export.INVARIANTS).read_text())) == 2
