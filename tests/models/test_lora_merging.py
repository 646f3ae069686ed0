"""Adapters equal peft: what is merged computes what peft's own forward pass does, or is refused by name."""

import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

from logratio import errors
from logratio.models.loading import load, read_limits, save
from logratio.models.lora import POLICY, adapter_parameters, add_adapter, unadapted_weights
from logratio.models.lora_files import CONFIG, WEIGHTS, save_adapter
from logratio.models.lora_merging import untie_weights
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from tiny_models import SIZES, tiny_llama, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # What peft says of tied weights and of embeddings that it saves while it makes the adapters of this test.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
TOKENS = len(tiny_tokenizer())
SMALL = {"initializer_range": 0.15}
MADE = {
    "tied": lambda: tiny_llama(TOKENS, tied=True, spread=0.15),
    "untied": lambda: tiny_llama(TOKENS, tied=False, spread=0.15),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=4, n_positions=64, eos_token_id=0, **SMALL)
    ),
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(vocab_size=TOKENS, num_local_experts=4, **SIZES | SMALL)
    ),
    "qwen": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            vocab_size=TOKENS,
            num_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            head_dim=8,
            **SIZES | SMALL,
        )
    ),
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Small models of several architectures, by name."""
    root = tmp_path_factory.mktemp("bases")
    for name, make in MADE.items():
        torch.manual_seed(0)
        save(make(), tiny_tokenizer(), root / name)
    return root


def opened(path):
    """What plain transformers opens."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


@torch.no_grad()
def logprobs(model, tokens=TOKENS):
    ids = torch.tensor([[*range(2, 40), *range(TOKENS, tokens)]])
    return model(input_ids=ids).logits.log_softmax(-1)


def made_by_peft(base, path, *, tokens=TOKENS, save_embedding_layers="auto", **settings):
    """An adapter that peft made and saved, each of its weights moved; returns peft's own model."""
    model = opened(base)
    torch.manual_seed(3)
    if tokens != TOKENS:
        model.resize_token_embeddings(tokens)
    config = peft.LoraConfig(**{"r": 4, "lora_alpha": 6, "task_type": "CAUSAL_LM"} | settings)
    adapted = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for weight in adapted.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn(weight.shape))
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(path, save_embedding_layers=save_embedding_layers)
    return adapted


EMBEDDINGS, HEAD, BOTH = ["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
LAYER = {"target_modules": ["q_proj"]}
ON_EMBEDDINGS = {
    "head": {"target_modules": HEAD},
    "embeddings": {"target_modules": EMBEDDINGS},
    "both and a layer": {"target_modules": [*BOTH, "q_proj"]},
    "by a pattern": {"target_modules": r".*(lm_head|q_proj)"},
    "head whole": LAYER | {"modules_to_save": HEAD},
    "embeddings whole": LAYER | {"modules_to_save": EMBEDDINGS},
    "both whole": LAYER | {"modules_to_save": BOTH},
    "some tokens": LAYER | {"trainable_token_indices": [3, 7, 11]},
    "other tokens of each": LAYER | {"trainable_token_indices": {"embed_tokens": [3, 7], "lm_head": [4, 5]}},
    "embeddings, kept tied": {"target_modules": EMBEDDINGS, "ensure_weight_tying": True},
    "both whole, kept tied": LAYER | {"modules_to_save": BOTH, "ensure_weight_tying": True},
    "DoRA": {"target_modules": [*BOTH, "down_proj"], "use_dora": True},
}
OTHERS = {
    "ranks and scales by layer": LAYER
    | {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"v_proj": 11},
    },
    "rank-stabilised": {"target_modules": "all-linear", "use_rslora": True},
    "one layer": LAYER | {"layers_to_transform": [1]},
    "layers twice": LAYER | {"layer_replication": [[0, 2], [1, 2]]},
    "norms whole": LAYER | {"modules_to_save": ["input_layernorm", "norm"]},
}
GPT2 = {
    "transposed": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "bias": {"target_modules": ["c_attn"], "bias": "all"},
    "bias of the adapter": {"target_modules": ["c_attn"], "lora_bias": True},
    "positions": {"target_modules": ["wpe"]},
    "embeddings": {"target_modules": ["wte", "c_attn"]},
    "head": {"target_modules": HEAD},
}
MIXTURE = {
    "attention": LAYER,
    "experts": {"target_modules": [], "target_parameters": EXPERTS},
    "some of both": LAYER | {"target_parameters": EXPERTS[1:]},
    "router": LAYER | {"target_parameters": ["mlp.gate.weight"]},
    "router whole": LAYER | {"modules_to_save": ["gate"]},
}
CASES = {
    f"{base}: {name}": (base, settings)
    for base, settings_of in {
        "tied": ON_EMBEDDINGS | OTHERS,
        "untied": {
            name: ON_EMBEDDINGS[name] for name in ("both and a layer", "embeddings whole", "some tokens")
        },
        "gpt2": GPT2,
        "mixtral": MIXTURE,
        "qwen": {"experts": MIXTURE["experts"]},
    }.items()
    for name, settings in settings_of.items()
}


@pytest.mark.parametrize(("base", "settings"), CASES.values(), ids=CASES)
def test_a_merged_adapter_computes_what_peft_does(bases, tmp_path, base, settings):
    adapted = made_by_peft(bases / base, tmp_path / "adapter", **settings)
    expected = logprobs(adapted)
    assert float((expected - logprobs(opened(bases / base))).abs().max()) > 0.05
    loaded = load(str(tmp_path / "adapter"))
    torch.testing.assert_close(logprobs(loaded.model), expected, rtol=0, atol=1e-5)
    save(loaded.model, loaded.tokenizer, tmp_path / "plain")
    torch.testing.assert_close(logprobs(opened(tmp_path / "plain")), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["head", "embeddings"])
def test_packed_rows_of_it_are_those_of_peft(bases, tmp_path, name):
    adapted = made_by_peft(bases / "tied", tmp_path / "adapter", **ON_EMBEDDINGS[name])
    loaded = load(str(tmp_path / "adapter"))
    policy = LanguagePolicy(loaded.model, loaded.tokenizer)
    group = AnswerGroup((3, 4, 5), ((7, 11, 0), (8, 0)))
    (row,) = policy.pack([group])
    expected = []
    for answer in group.answers:
        with torch.no_grad():
            ids = torch.tensor([[*group.prompt, *answer[:-1]]])
            every = adapted(input_ids=ids).logits[0, len(group.prompt) - 1 :].log_softmax(-1)
        expected += every[range(len(answer)), list(answer)].tolist()
    torch.testing.assert_close(policy.evaluate(row).detach(), torch.tensor(expected), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("name", "two"), [("head", True), ("some tokens", False), ("DoRA", True)])
def test_embeddings_are_two_weights_where_they_differ_and_one_where_not(bases, tmp_path, name, two):
    made_by_peft(bases / "tied", tmp_path / "adapter", **ON_EMBEDDINGS[name])
    model = load(str(tmp_path / "adapter")).model
    shared = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert (shared, model.config.tie_word_embeddings) == (not two, not two)
    model.tie_weights()
    assert (model.get_output_embeddings().weight is model.get_input_embeddings().weight) is shared


def test_the_base_s_embeddings_stay_where_only_the_head_is_adapted(bases, tmp_path):
    made_by_peft(bases / "tied", tmp_path / "adapter", target_modules=HEAD)
    model = load(str(tmp_path / "adapter")).model
    base = opened(bases / "tied")
    assert torch.equal(model.get_input_embeddings().weight, base.get_input_embeddings().weight)
    moved = model.get_output_embeddings().weight - base.get_output_embeddings().weight
    assert float(moved.abs().max()) > 0.01


# --- vocabularies that were extended ------------------------------------------------------------------

EXTENDED = {
    "a layer": LAYER,
    "embeddings and head": {"target_modules": [*BOTH, "q_proj"]},
    "both whole": LAYER | {"modules_to_save": BOTH},
    "embeddings whole": LAYER | {"modules_to_save": EMBEDDINGS},
    "new tokens": LAYER | {"trainable_token_indices": [TOKENS, TOKENS + 2]},
}


@pytest.mark.parametrize(
    ("base", "settings"),
    [*(("tied", one) for one in EXTENDED.values()), ("untied", EXTENDED["embeddings whole"])],
    ids=[*EXTENDED, "untied"],
)
def test_a_base_gets_the_rows_that_an_adapter_brings(bases, tmp_path, base, settings):
    tokens = TOKENS + 3
    expected = logprobs(
        made_by_peft(bases / base, tmp_path / "adapter", tokens=tokens, **settings), tokens=tokens
    )
    loaded = load(str(tmp_path / "adapter"))
    torch.testing.assert_close(logprobs(loaded.model, tokens=tokens), expected, rtol=0, atol=1e-5)
    save(loaded.model, loaded.tokenizer, tmp_path / "plain")
    found = logprobs(opened(tmp_path / "plain"), tokens=tokens)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert read_limits(str(tmp_path / "adapter")).embedding_rows == tokens


def test_rows_that_are_in_no_file_are_named(bases, tmp_path):
    made_by_peft(bases / "untied", tmp_path / "adapter", tokens=TOKENS + 3, **LAYER)
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    kept = {name: value for name, value in weights.items() if "lm_head" not in name}
    save_file(kept, tmp_path / "adapter" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(errors.ModelNotFound, match=f"nothing for the rows of lm_head from {TOKENS} on"):
        load(str(tmp_path / "adapter"))


def test_two_embeddings_for_a_base_with_one_are_refused(bases, tmp_path):
    """In the weights of one of them the other would be lost, whichever is read last."""
    made_by_peft(bases / "tied", tmp_path / "adapter", tokens=TOKENS + 3, **LAYER)
    weights = load_file(tmp_path / "adapter" / WEIGHTS)
    weights["base_model.model.lm_head.weight"][0] += 1
    save_file(weights, tmp_path / "adapter" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(errors.ModelNotFound, match="embeddings and a head that differ"):
        load(str(tmp_path / "adapter"))


def test_new_tokens_whose_rows_were_not_saved_are_not_known(bases, tmp_path):
    """The adapter's layers are whole; only rows that use such a token cannot be computed."""
    made_by_peft(
        bases / "tied", tmp_path / "adapter", tokens=TOKENS + 3, save_embedding_layers=False, **LAYER
    )
    assert read_limits(str(tmp_path / "adapter")).embedding_rows == TOKENS
    assert load(str(tmp_path / "adapter")).model.get_input_embeddings().num_embeddings == TOKENS


# --- experts that were single layers ------------------------------------------------------------------


def test_experts_of_an_older_layout_are_merged_one_by_one(bases, tmp_path):
    generator = torch.Generator().manual_seed(0)
    model, tensors = opened(bases / "mixtral"), {}

    def product(name, shape):
        down, up = (
            torch.randn(3, shape[1], generator=generator),
            torch.randn(shape[0], 3, generator=generator),
        )
        tensors[f"base_model.model.{name}.lora_A.weight"] = 0.1 * down
        tensors[f"base_model.model.{name}.lora_B.weight"] = 0.1 * up
        return 2 * 0.01 * up @ down

    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            for expert in range(4):
                place = f"model.layers.{number}.block_sparse_moe.experts.{expert}"
                layer.mlp.experts.gate_up_proj[expert, :48] += product(f"{place}.w1", (48, 32))
                layer.mlp.experts.gate_up_proj[expert, 48:] += product(f"{place}.w3", (48, 32))
                layer.mlp.experts.down_proj[expert] += product(f"{place}.w2", (32, 48))
    (tmp_path / "old").mkdir()
    save_file(tensors, tmp_path / "old" / WEIGHTS, metadata={"format": "pt"})
    settings = {"peft_type": "LORA", "r": 3, "lora_alpha": 6, "target_modules": ["w1", "w2", "w3"]}
    base = {"base_model_name_or_path": str(bases / "mixtral")}
    (tmp_path / "old" / CONFIG).write_text(json.dumps(settings | base))
    loaded = load(str(tmp_path / "old"))
    torch.testing.assert_close(logprobs(loaded.model), logprobs(model), rtol=0, atol=1e-5)


# --- refused, or said ---------------------------------------------------------------------------------


def test_what_peft_cannot_fold_is_refused_by_its_reason(bases, tmp_path):
    made_by_peft(bases / "tied", tmp_path / "adapter", target_modules=HEAD, lora_bias=True)
    with pytest.raises(errors.BadConfig, match=r"cannot fold.*lora_bias"):
        load(str(tmp_path / "adapter"))


def test_a_fold_that_computes_something_else_is_refused(bases, tmp_path, monkeypatch):
    made_by_peft(bases / "tied", tmp_path / "adapter", target_modules=HEAD)
    monkeypatch.setattr("logratio.models.lora_merging.untie_weights", lambda model: None)
    with pytest.raises(errors.BadConfig, match="computes something else than in peft"):
        load(str(tmp_path / "adapter"))


def test_modules_that_the_base_lacks_are_said_by_name(bases, tmp_path):
    made_by_peft(
        bases / "tied",
        tmp_path / "adapter",
        target_modules=["q_proj", "c_attn"],
        modules_to_save=["norm"],
        layers_to_transform=[1],
    )
    file = tmp_path / "adapter" / CONFIG
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"warp_factor": 9, "modules_to_save": ["norm"]})
    )
    notes = load(str(tmp_path / "adapter")).notes
    assert "the adapter's target_modules name what its base does not have: c_attn" in notes
    assert "peft does not know these settings of the adapter: warp_factor" in notes
    assert len(notes) == 3


def test_further_adapters_in_the_directory_are_named(bases, tmp_path):
    adapted = made_by_peft(bases / "tied", tmp_path / "first", **LAYER)
    adapted.add_adapter("second", peft.LoraConfig(r=2, target_modules=["v_proj"], task_type="CAUSAL_LM"))
    adapted.set_adapter("second")
    adapted.peft_config["second"].base_model_name_or_path = str(bases / "tied")
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if ".second." in name:
                weight.add_(0.1)
    second = logprobs(adapted)
    adapted.save_pretrained(tmp_path / "several")
    within = str(tmp_path / "several" / "second")
    adapted.set_adapter("default")
    loaded = load(str(tmp_path / "several"))
    torch.testing.assert_close(logprobs(loaded.model), logprobs(adapted), rtol=0, atol=1e-5)
    assert f"further adapters are not opened with it: {within}" in loaded.notes
    torch.testing.assert_close(logprobs(load(within).model), second, rtol=0, atol=1e-5)
    for file in (CONFIG, WEIGHTS):
        (tmp_path / "several" / file).unlink()
    with pytest.raises(errors.ModelNotFound) as fault:
        load(str(tmp_path / "several"))
    assert f"give one of {within}" in fault.value.action


# --- our own adapters on top --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["head", "embeddings, kept tied"])
def test_an_adapter_of_ours_on_one_that_moves_the_embeddings(bases, tmp_path, name):
    made_by_peft(bases / "tied", tmp_path / "first", **ON_EMBEDDINGS[name])
    loaded = load(str(tmp_path / "first"))
    add_adapter(loaded.model, rank=4, alpha=8, seed=0, base=str(tmp_path / "first"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapter_parameters(loaded.model, POLICY):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_adapter(loaded.model, tmp_path / "second")
    again = load(str(tmp_path / "second"))
    torch.testing.assert_close(logprobs(again.model), logprobs(loaded.model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("base", ["tied", "gpt2", "qwen"])
def test_what_we_save_opens_in_peft_with_the_same_numbers(bases, tmp_path, base):
    loaded = load(str(bases / base))
    add_adapter(loaded.model, rank=4, alpha=8, seed=0, base=str(bases / base))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapter_parameters(loaded.model, POLICY):
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    save_adapter(loaded.model, tmp_path / "ours")
    found = peft.PeftModel.from_pretrained(opened(bases / base), tmp_path / "ours").eval()
    assert torch.equal(logprobs(found), logprobs(loaded.model))


def test_weights_that_are_no_linear_layers_are_counted(bases):
    experts = load(str(bases / "mixtral")).model
    add_adapter(experts, rank=2, alpha=4, seed=0)
    assert unadapted_weights(experts) == {
        "mlp.experts.down_proj": 2 * 4 * 32 * 48,
        "mlp.experts.gate_up_proj": 2 * 4 * 96 * 32,
        "mlp.gate.weight": 2 * 4 * 32,
    }
    plain = load(str(bases / "gpt2")).model
    add_adapter(plain, rank=2, alpha=4, seed=0)
    assert unadapted_weights(plain) == {}


def test_untying_copies_what_is_shared_and_nothing_else(bases):
    model = opened(bases / "tied")
    before = dict(model.named_parameters())
    untie_weights(model)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    assert torch.equal(model.lm_head.weight, model.model.embed_tokens.weight)
    assert all(dict(model.named_parameters())[name] is weight for name, weight in before.items())
