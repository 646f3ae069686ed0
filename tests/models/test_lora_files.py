"""Adapters on disk: what peft reads, what is merged on opening, and refusals that say what to do."""

import importlib.util
import json
import math

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from logratio import errors
from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.models.loading import load, load_tokenizer, save, weights_fingerprint
from logratio.models.lora import BASE, POLICY, adapter_names, adapter_parameters, add_adapter
from logratio.models.lora_files import CONFIG, WEIGHTS, save_adapter
from logratio.models.reward_model import load_reward_model
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from logratio.training.reference import compute_logprobs
from tiny_models import random_groups, tiny_llama, tiny_tokenizer

IDS = torch.arange(2, 40)[None]
# peft asks transformers for something by its older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS).logits


def edit_config(path, **changes):
    file = path / CONFIG
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def base(tmp_path, model, tokenizer):
    save(model, tokenizer, tmp_path / "base")
    return tmp_path / "base"


def train_and_save(base, path, *, seed=0):
    """An adapter on `base`, moved as training would move it, and saved; returns the model that it makes."""
    loaded = load(str(base))
    add_adapter(loaded.model, rank=4, alpha=8, seed=seed, base=str(base))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapter_parameters(loaded.model, POLICY):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_adapter(loaded.model, path, base_fingerprint=weights_fingerprint(loaded.model, trainable=False))
    return loaded.model


@pytest.fixture
def adapter(tmp_path, base):
    train_and_save(base, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_peft_opens_what_is_saved(tmp_path, base):
    model = train_and_save(base, tmp_path / "adapter")
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    apart = logits(plain)
    found = logits(peft.PeftModel.from_pretrained(plain, tmp_path / "adapter"))
    assert torch.equal(found, logits(model))
    assert float((found - apart).abs().max()) > 0.1
    alone = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", dtype=torch.float32)
    assert torch.equal(logits(alone), logits(model))


def test_the_configuration_has_one_order_in_every_process(adapter):
    settings = json.loads((adapter / CONFIG).read_text())
    assert settings["target_modules"] == sorted(settings["target_modules"])
    assert list(settings) == sorted(settings)
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 8, 0.0)


def test_an_adapter_is_opened_as_the_plain_model_that_it_makes(tmp_path, base, tokenizer):
    model = train_and_save(base, tmp_path / "adapter")
    loaded = load(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded.model), logits(model), rtol=0, atol=1e-4)
    assert adapter_names(loaded.model) == ()
    assert list(loaded.model.state_dict()) == list(tiny_llama(len(tokenizer)).state_dict())
    assert all(weight.requires_grad for weight in loaded.model.parameters())
    assert not loaded.model.training
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()
    assert loaded.fingerprint != load(str(base)).fingerprint
    assert loaded.notes == (f"an adapter is merged into {base}",)


def test_the_tokenizer_is_the_adapter_s_own_where_it_brings_one(adapter, tokenizer):
    assert load_tokenizer(str(adapter)).chat_template == tokenizer.chat_template
    other = tiny_tokenizer()
    other.chat_template = "another"
    other.save_pretrained(adapter)
    assert load_tokenizer(str(adapter)).chat_template == "another"
    assert load(str(adapter)).tokenizer.chat_template == "another"


def test_an_adapter_on_an_adapter_is_merged_in_turn(tmp_path, adapter):
    model = train_and_save(adapter, tmp_path / "second", seed=1)
    torch.testing.assert_close(logits(load(str(tmp_path / "second")).model), logits(model), rtol=0, atol=1e-4)


def test_a_new_adapter_on_an_opened_one_has_that_model_as_its_reference(tmp_path, base, adapter):
    """Continuing an SFT adapter with the bare base as reference is the fault that this rules out."""
    groups = random_groups(12, vocab_size=200)
    sft, bare = (LanguagePolicy(load(str(path)).model, None) for path in (adapter, base))
    opened = load(str(adapter)).model
    add_adapter(opened, rank=4, alpha=8, seed=3)
    reference = LanguagePolicy(opened, None, adapter=BASE)
    expected, wrong = (compute_logprobs(one, groups, row_tokens=128) for one in (sft, bare))
    before = compute_logprobs(reference, groups, row_tokens=128)
    torch.testing.assert_close(before, expected, rtol=0, atol=1e-4)
    assert float((wrong - expected).abs().max()) > 0.1

    config = DPOConfig.of(batch_size=4, learning_rate=1e-2, epochs=2.0)
    with RunDirectory.begin(tmp_path / "run", {"identity": config.identity()}) as run:
        train_dpo(LanguagePolicy(opened, None), groups, config, run)
    assert run.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert run.metrics[-1]["loss"] < 0.6
    assert torch.equal(compute_logprobs(reference, groups, row_tokens=128), before)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear", "use_rslora": True, "lora_dropout": 0.5},
        {"target_modules": ["down_proj"], "use_dora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    ],
    ids=["two layers", "rank-stabilised, with dropout", "DoRA", "embeddings trained whole"],
)
def test_adapters_of_others_are_merged_as_peft_computes_them(tmp_path, tokenizer, settings):
    model = tiny_llama(len(tokenizer), tied=False)
    save(model, tokenizer, tmp_path / "base")
    model.name_or_path = str(tmp_path / "base")
    config = peft.LoraConfig(r=3, lora_alpha=5, task_type="CAUSAL_LM", **settings)
    torch.manual_seed(0)
    foreign = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for weight in foreign.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape))
    foreign.save_pretrained(tmp_path / "foreign")
    opened = load(str(tmp_path / "foreign"))
    torch.testing.assert_close(logits(opened.model), logits(foreign), rtol=0, atol=1e-3)
    save(opened.model, opened.tokenizer, tmp_path / "plain")
    assert torch.equal(logits(load(str(tmp_path / "plain")).model), logits(opened.model))


def test_a_checkpoint_of_another_trainer_is_an_adapter_all_the_same(adapter):
    for name in ("training_args.bin", "optimizer.pt", "rng_state.pth", "config.json"):
        (adapter / name).write_text("{}")
    load(str(adapter))


def test_a_base_that_is_not_there_is_named(adapter):
    edit_config(adapter, base_model_name_or_path="/nowhere/at/all")
    for opening in (load, load_tokenizer):
        with pytest.raises(errors.ModelNotFound, match="/nowhere/at/all") as fault:
            opening(str(adapter))
        assert fault.value.where == str(adapter / CONFIG)
        assert "base_model_name_or_path" in fault.value.action


def test_a_base_with_other_weights_is_refused(adapter, base, tokenizer):
    save(tiny_llama(len(tokenizer), seed=7), tokenizer, base)
    with pytest.raises(errors.BadConfig, match="does not have the weights"):
        load(str(adapter))


def test_a_narrowed_base_is_not_taken_for_another(adapter):
    narrow = load(str(adapter), dtype="bfloat16").model
    assert narrow.dtype == torch.bfloat16
    assert torch.nn.functional.cosine_similarity(
        logits(narrow).float().flatten(), logits(load(str(adapter)).model).flatten(), dim=0
    ) == pytest.approx(1, abs=0.01)


def test_an_adapter_that_lies_on_itself_is_named(adapter):
    edit_config(adapter, base_model_name_or_path=str(adapter))
    with pytest.raises(errors.ModelNotFound, match="on itself"):
        load(str(adapter))


@pytest.mark.parametrize("base_name", [None, "", 3])
def test_an_adapter_without_a_base_is_named(adapter, base_name):
    edit_config(adapter, base_model_name_or_path=base_name)
    with pytest.raises(errors.ModelNotFound, match="does not name"):
        load(str(adapter))


def test_only_pickles_are_refused(adapter):
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(errors.UnsafeArtifact, match="pickle"):
        load(str(adapter))


def test_an_adapter_without_weights_is_named(adapter):
    (adapter / WEIGHTS).unlink()
    with pytest.raises(errors.ModelNotFound, match=WEIGHTS):
        load(str(adapter))


@pytest.mark.parametrize(("setting", "value"), [("peft_type", "IA3"), ("task_type", "SEQ_CLS")])
def test_an_adapter_of_another_kind_is_named(adapter, setting, value):
    edit_config(adapter, **{setting: value})
    with pytest.raises(errors.BadConfig, match=value):
        load(str(adapter))


def test_an_adapter_beside_a_whole_model_is_refused(adapter, base):
    (base / CONFIG).write_text((adapter / CONFIG).read_text())
    with pytest.raises(errors.BadConfig, match=r"a whole model \(model\.safetensors\)"):
        load(str(base))


def test_an_adapter_is_no_reward_model(adapter):
    with pytest.raises(errors.ModelNotFound, match="no score"):
        load_reward_model(str(adapter))


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_config_that_cannot_be_read_is_named(adapter, content):
    (adapter / CONFIG).write_text(content)
    with pytest.raises(errors.ModelNotFound, match=CONFIG):
        load(str(adapter))


@pytest.mark.parametrize("size", [0, 8, 4000])
def test_a_cut_off_weight_file_is_named(adapter, size):
    with open(adapter / WEIGHTS, "r+b") as stream:
        stream.truncate(size)
    with pytest.raises(errors.ModelNotFound):
        load(str(adapter))


def change_weights(adapter, change):
    tensors = load_file(adapter / WEIGHTS)
    change(tensors, next(iter(sorted(tensors))))
    save_file(tensors, adapter / WEIGHTS, metadata={"format": "pt"})


CHANGES = {
    "one is missing": lambda tensors, name: tensors.pop(name),
    "one has no place": lambda tensors, name: tensors.update(
        {name.replace("layers.0", "layers.9"): tensors[name].clone()}
    ),
    "one has another shape": lambda tensors, name: tensors.update({name: tensors[name][:-1].clone()}),
    "one is not finite": lambda tensors, name: tensors[name].fill_(math.nan),
}


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_do_not_fit_the_base_are_named(adapter, change):
    change_weights(adapter, CHANGES[change])
    with pytest.raises(errors.ModelNotFound, match="cannot be laid on its base"):
        load(str(adapter))


def test_opening_leaves_the_global_generator_alone(adapter):
    before = torch.random.get_rng_state()
    load(str(adapter))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_without_peft_an_adapter_says_what_to_install(adapter, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "peft" else find(name))
    with pytest.raises(errors.MissingExtra) as fault:
        load(str(adapter))
    assert "pip install 'logratio[peft]'" in fault.value.action
