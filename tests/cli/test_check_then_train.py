"""After `check` says that training can begin, training begins: on the rows that check counted, no others."""

import json
import warnings

import pytest
import torch
from tokenizers import AddedToken
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from logratio.cli.main import main
from logratio.models.loading import load, save
from logratio.run_directory import RunDirectory
from tiny_models import BEGIN, SIZES, tiny_llama, tiny_tokenizer

POSITIONS = 48
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
SETTINGS = ["--batch-size", "32", "--held-out", "0", "--threads", "1"]
ROWS = [
    *({"prompt": f"say {n}", "chosen": f"a good {n}", "rejected": f"I hate {n}"} for n in range(24)),
    {"prompt": "a long answer", "chosen": "z" * 90, "rejected": "y" * 90},
    {"prompt": "x" * 90, "chosen": "a", "rejected": "b"},
    {"prompt": "a <|new|> day", "chosen": "a", "rejected": "b"},
]


def with_new_token():
    """A tokenizer with a token that no model here has a row for."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|new|>", special=False)])
    return tokenizer


def learned(vocabulary):
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": POSITIONS}
    return GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, eos_token_id=0, bos_token_id=0, **sizes))


def dynamic(vocabulary):
    sizes = SIZES | {"max_position_embeddings": POSITIONS, "num_hidden_layers": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, rope_parameters=dict(DYNAMIC), **sizes))


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.mark.parametrize(
    ("make", "kind"), [(learned, "sft"), (learned, "dpo"), (learned, "reward"), (dynamic, "dpo")]
)
def test_what_check_accepts_trains(tmp_path, data, make, kind, capsys):
    model, out = tmp_path / "model", tmp_path / "run"
    torch.manual_seed(0)
    save(make(len(tiny_tokenizer())), with_new_token(), model)
    common = ["--data", str(data), "--model", str(model)]
    assert main(["check", *common, "--json", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr().out
    assert "training can begin" in shown
    assert f"rows end after {POSITIONS} tokens instead of max_length 1024" in shown
    checked = json.loads((tmp_path / "c.json").read_text())
    assert checked["unusable"] == {"PromptTooLong": 1, "TokenWithoutEmbedding": 1}
    places = {name: [row["where"] for row in rows] for name, rows in checked["faults"].items()}
    assert places == {"PromptTooLong": [f"{data}:26"], "TokenWithoutEmbedding": [f"{data}:27"]}
    assert main(["train", kind, *common, "--out", str(out), *SETTINGS]) == 0
    counts = json.loads((out / "data.json").read_text())
    assert counts["unusable"] == {"PromptTooLong": 1, "TokenWithoutEmbedding": 1}
    assert counts["truncated"] == {"chosen": 1, "rejected": 1}
    assert counts["train"] == 25


@pytest.mark.parametrize("command", [["check"], ["train", "sft"], ["train", "dpo"], ["train", "reward"]])
def test_a_template_s_token_without_an_embedding_is_said_once(tmp_path, data, command, capsys):
    tokenizer = tiny_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.chat_template = tokenizer.chat_template.replace(BEGIN, "<|turn|>")
    save(tiny_llama(rows), tokenizer, tmp_path / "model")
    out = [] if command == ["check"] else ["--out", str(tmp_path / "run")]
    assert main([*command, "--data", str(data), "--model", str(tmp_path / "model"), *out]) == 2
    shown = capsys.readouterr()
    assert (shown.err + shown.out).count("TokenWithoutEmbedding") == 1
    assert f"'<|turn|>' ({rows})" in shown.err
    assert not (tmp_path / "run").exists()


def test_an_adapter_on_a_tied_head_is_trained_from(tmp_path, data):
    peft = pytest.importorskip("peft")
    base, first, out = tmp_path / "base", tmp_path / "first", tmp_path / "run"
    save(tiny_llama(len(tiny_tokenizer()), spread=0.15), tiny_tokenizer(), base)
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["lm_head"], task_type="CAUSAL_LM", init_lora_weights=False)
    with warnings.catch_warnings(action="ignore"):
        adapted = peft.get_peft_model(load(str(base)).model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(first, save_embedding_layers=False)
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:12]))
    lora = ["--lora-rank", "2", "--learning-rate", "1e-2"]
    flags = ["--data", str(data), "--model", str(first), "--out", str(out), *SETTINGS]
    assert main(["train", "dpo", *flags, *lora]) == 0
    assert RunDirectory(out).metrics[0]["loss"] == pytest.approx(0.693147, abs=1e-5)
    ids = torch.arange(2, 40)[None]
    with torch.no_grad():
        merged, trained, before = (
            load(str(path)).model(input_ids=ids).logits.log_softmax(-1)
            for path in (out, out / "adapter", first)
        )
    torch.testing.assert_close(trained, merged, rtol=0, atol=1e-5)
    assert float((merged - before).abs().max()) > 1e-3
