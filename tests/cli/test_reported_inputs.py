"""Inputs that people reported to other tools, through the command line alone: each has its right outcome."""

from __future__ import annotations

import codecs
import json
import sys
import time

import gymnasium
import numpy as np
import peft
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from gguf_files import write_gguf
from logratio.cli.main import main
from logratio.models.loading import save
from logratio.models.tokenisation import encode_completion
from logratio.records import Completion, Prompt
from tiny_models import BEGIN, END, TEMPLATE, tiny_llama, tiny_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # What peft says of tied weights.
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
PAIRS = [
    {"prompt": f"the cat {n}", "chosen": f"the dog {n} ran", "rejected": f"a bad day {n}, the mat"}
    for n in range(8)
]
PROMPTS = [{"prompt": f"the cat {n}"} for n in range(12)]
SMALL = ["--held-out", "0", "--threads", "1"]
REWARDS = """
def length(completions, **columns):
    return [float(len(one)) for one in completions]

def of_math(completions, task, **columns):
    return [float(len(one)) if kind == "math" else None for one, kind in zip(completions, task)]

def of_code(completions, task, **columns):
    return [-float(len(one)) if kind == "code" else None for one, kind in zip(completions, task)]
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("LOGRATIO_CACHE", str(tmp_path / "cache"))
    (tmp_path / "reported_rewards.py").write_text(REWARDS)
    write("pairs.jsonl", PAIRS)
    write("prompts.jsonl", PROMPTS)
    yield tmp_path
    sys.modules.pop("reported_rewards", None)


def write(path, rows):
    with open(path, "w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows)


def read(path):
    with open(path, encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def call(*words):
    return main([*map(str, words)])


def keep(model=None, tokenizer=None, path="model"):
    tokenizer = tokenizer or tiny_tokenizer()
    save(model or tiny_llama(len(tokenizer)), tokenizer, path)
    return tokenizer


def indifferent(tokenizer, **settings):
    """A model that hardly prefers one token to another, so that every one of them is drawn."""
    model = tiny_llama(len(tokenizer), tied=False, **settings)
    with torch.no_grad():
        model.lm_head.weight.mul_(0.1)
    return model


def sample(model, out, *words):
    return call("sample", "--model", model, "--prompts", "prompts.jsonl", "--out", out, *words)


@torch.no_grad()
def apart(path, model, tokenizer):
    """The largest distance of recorded log-probabilities to a model's own, in nats per token."""
    worst = 0.0
    for row in read(path):
        turn = [{"role": "user", "content": row["prompt"]}]
        text = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
        prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
        for answer in row["completions"]:
            ids = torch.tensor([prompt + answer["token_ids"]])
            logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
            own = logprobs.gather(-1, ids[0, len(prompt) :, None])[:, 0]
            worst = max(worst, float((own - torch.tensor(answer["model_logprobs"])).abs().max()))
    return worst


class Target(gymnasium.Env):
    """Pays for being near a value that lies at the same place between the bounds."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, low, high):
        self.low, self.high = low, high
        self.action_space = spaces.Box(low, high, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        share = (float(action[0]) - self.low) / (self.high - self.low)
        return np.zeros(1, np.float32), -2 * abs(share - 0.7), self.steps >= 10, False, {}


def test_actions_far_from_zero_earn_what_near_ones_do(place):
    returns = {}
    for low, high in ((-1.0, 1.0), (5.0, 35.0)):
        gymnasium.register("Reported-v0", entry_point=lambda low=low, high=high: Target(low, high))
        words = ["--num-envs", "4", "--num-steps", "64", "--evaluation-episodes", "2", "--update-epochs", "1"]
        out = ["--env", "Reported-v0", "--out", f"to {high}", "--steps", "256"]
        assert call("control", "ppo", *words, *out) == 0
        gymnasium.registry.pop("Reported-v0")
        returns[high] = read(f"to {high}/metrics.jsonl")[0]["episode_return"]
    assert returns[35.0] == pytest.approx(returns[1.0], abs=1e-3)


@pytest.mark.parametrize("target", ["q_proj", "lm_head", "embed_tokens"])
def test_an_adapter_on_tied_embeddings_computes_what_peft_does(place, target):
    tokenizer = keep(path="base")
    write("prompts.jsonl", PROMPTS[:2])
    torch.manual_seed(1)
    config = peft.LoraConfig(r=4, target_modules=[target], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained("base"), config).eval()
    for weight in adapted.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, 0, 0.1)
    adapted.peft_config["default"].base_model_name_or_path = "base"
    adapted.save_pretrained("adapter")
    tokenizer.save_pretrained("adapter")
    assert sample("adapter", "out.jsonl", "--max-new-tokens", "8") == 0
    assert apart("out.jsonl", adapted, tokenizer) < 1e-4


def test_an_answer_with_the_end_token_of_the_reward_model_ends_no_run(place):
    judge = tiny_tokenizer()
    judge.add_special_tokens({"eos_token": "</s>"})
    judge.chat_template = "{% for m in messages %}{{ m.role + ':' + m.content + '</s>' }}{% endfor %}"
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(judge), num_labels=1, eos_token_id=290, pad_token_id=0, **sizes)
    LlamaForSequenceClassification(config).save_pretrained("judge")
    judge.save_pretrained("judge")
    # To the policy it is a text like another, and the one that it writes most.
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("</s>", special=False, normalized=False)])
    policy = tiny_llama(len(tokenizer), tied=False)
    with torch.no_grad():
        policy.get_input_embeddings().weight.fill_(1.0)
        hidden = policy.model(input_ids=torch.tensor([[5]])).last_hidden_state[0, 0]
        policy.lm_head.weight.fill_(0.0)
        policy.lm_head.weight[-1] = 0.2 * hidden
    keep(policy, tokenizer)
    words = ["--reward", "judge", "--out", "run", "--max-new-tokens", "8", *SMALL]
    assert call("train", "reinforce", "--model", "model", "--prompts", "prompts.jsonl", *words) == 0


def test_a_byte_order_mark_costs_no_row(place, capsys):
    keep()
    write("prompts.jsonl", PROMPTS[:1])
    write("votes.jsonl", [{"winner": "x", "loser": "y"}, {"winner": "y", "loser": "x"}])
    for name in ("pairs.jsonl", "prompts.jsonl", "votes.jsonl"):
        path = place / name
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    assert sample("model", "out.jsonl", "--max-new-tokens", "2") == 0
    assert call("rate", "--comparisons", "votes.jsonl", "--bootstrap", "0") == 0
    capsys.readouterr()
    assert call("check", "--data", "pairs.jsonl", "--json", "found.json") == 0
    found = json.loads((place / "found.json").read_text())
    assert (found["num_rows"], found["num_usable"]) == (8, 8)


def test_dpo_goes_on_after_midnight(place):
    tokenizer = tiny_tokenizer()
    # Seconds stand for days.
    tokenizer.chat_template = "{{ 'Now: ' + strftime_now('%H:%M:%S') + '\\n' }}" + TEMPLATE
    keep(tokenizer=tokenizer)
    words = ["train", "dpo", "--model", "model", "--data", "pairs.jsonl", "--out", "run", *SMALL]
    assert call(*words) == 0
    time.sleep(1.1)
    assert call(*words, "--resume") == 0


@pytest.mark.parametrize(("size", "epochs"), [(4, [4 / 7, 1.0]), (1000, [1.0])])
def test_one_pass_over_the_rows_is_one_epoch(place, size, epochs):
    keep()
    write("pairs.jsonl", PAIRS[:7])
    words = ["--data", "pairs.jsonl", "--out", "run", "--epochs", "1", "--batch-size", size, *SMALL]
    assert call("train", "dpo", "--model", "model", *words) == 0
    assert [row["epoch"] for row in read("run/metrics.jsonl")] == pytest.approx(epochs, abs=1e-12)


@pytest.mark.parametrize("kind", ["linear", "llama3"])
def test_rope_scaling_of_a_gguf_file_is_used(place, kind):
    tokenizer = tiny_tokenizer()
    write("prompts.jsonl", PROMPTS[:2])
    ropes = {
        "linear": {"factor": 4.0},
        "llama3": {
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    }
    settings = tiny_llama(len(tokenizer)).config.to_dict()
    models = [
        LlamaForCausalLM(LlamaConfig(**settings | {"rope_parameters": {"rope_theta": 10_000.0, **rope}}))
        for rope in ({"rope_type": "default"}, {"rope_type": kind, **ropes[kind]})
    ]
    plain, scaled = (model.model.rotary_emb.inv_freq.numpy() for model in models)
    more = {
        "linear": {"settings": {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}},
        "llama3": {"tensors": {"rope_freqs.weight": (plain / scaled).astype(np.float32)}},
    }[kind]
    write_gguf("model.gguf", models[1].eval(), tokenizer, **more)
    assert sample("model.gguf", "out.jsonl", "--max-new-tokens", "12") == 0
    assert apart("out.jsonl", models[1], tokenizer) < 1e-4


@pytest.mark.parametrize("command", ["sample", "ppo", "evaluate"])
def test_one_prompt_that_is_too_long_ends_no_command(place, command):
    model = tiny_llama(len(tiny_tokenizer()))
    model.config.max_position_embeddings = 64
    keep(model)
    write("prompts.jsonl", [*PROMPTS, {"prompt": "the cat sat on the mat " * 12}])
    words = {
        "sample": ("sample", "--model", "model"),
        "ppo": ("train", "ppo", "--model", "model", "--reward", "reported_rewards:length", *SMALL),
        "evaluate": (
            "evaluate", "--policy", "model", "--reference", "model", "--reward", "reported_rewards:length"),
    }[command]  # fmt: skip
    assert call(*words, "--prompts", "prompts.jsonl", "--out", "out", "--max-new-tokens", "8") == 0


def test_answers_with_nul_that_we_sampled_can_be_labelled(place):
    tokenizer = tiny_tokenizer()
    keep(indifferent(tokenizer), tokenizer)
    assert sample("model", "out.jsonl", "--num-samples", "8", "--max-new-tokens", "32") == 0
    assert any("\0" in one["text"] for row in read("out.jsonl") for one in row["completions"])
    words = ["--reward", "reported_rewards:length", "--out", "labelled.jsonl"]
    assert call("label", "--completions", "out.jsonl", *words) == 0


def test_a_reward_of_some_rows_is_none_for_the_others(place):
    keep()
    rows = [row | {"task": "math" if n % 2 else "code"} for n, row in enumerate(PROMPTS[:6])]
    write("prompts.jsonl", rows)
    words = ["--reward", "reported_rewards:of_math", "reported_rewards:of_code", "--max-new-tokens", "6"]
    words += ["--prompts", "prompts.jsonl", "--out", "run", *SMALL]
    assert call("train", "reinforce", "--model", "model", *words) == 0
    for row in read("run/metrics.jsonl"):
        assert row["reward/reported_rewards:of_math"] >= 0 >= row["reward/reported_rewards:of_code"]


def test_a_tie_is_not_trained_on_as_a_win(place):
    keep()
    write("ties.jsonl", [row | {"tie": True} for row in PAIRS])
    for name in ("pairs", "ties"):
        words = ["--data", f"{name}.jsonl", "--out", name, "--learning-rate", "1e-3", *SMALL]
        assert call("train", "dpo", "--model", "model", *words) == 0
    wins, ties = (load_file(f"{name}/model/model.safetensors") for name in ("pairs", "ties"))
    assert not all(torch.equal(wins[key], ties[key]) for key in wins)


@pytest.mark.parametrize("kind", ["check", "sft", "dpo", "reward"])
def test_tokens_without_embeddings_are_refused_by_name(place, capsys, kind):
    tokenizer = tiny_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<|new|>", special=True)])
    tokenizer.chat_template = TEMPLATE.replace(BEGIN, "<|new|>")
    keep(tiny_llama(rows), tokenizer)
    command = ("check",) if kind == "check" else ("train", kind, "--out", "run", *SMALL)
    assert call(*command, "--data", "pairs.jsonl", "--model", "model") == 2
    shown = "".join(capsys.readouterr())
    assert "<|new|>" in shown
    assert "fault of logratio" not in shown
    assert "bug in logratio" not in shown


TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.reasoning_content %}{{ '<think>' + m.reasoning_content + '</think>' }}{% endif %}"
    "{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ '<call>' + c.function.name + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def test_tools_calls_and_reasoning_are_trained_on_as_transformers_renders_them(place):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = TOOLS
    keep(tokenizer=tokenizer)
    function = {"name": "weather", "description": "of today", "parameters": {}}
    tools = [{"type": "function", "function": function}]
    call_of_it = [{"type": "function", "function": {"name": "weather", "arguments": {}}}]
    prompt = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": call_of_it},
        {"role": "user", "content": "and then?"},
    ]
    chosen = [{"role": "assistant", "content": "sun", "reasoning_content": "I looked it up."}]
    rejected = [{"role": "assistant", "content": "rain", "reasoning_content": "No idea."}]
    write("pairs.jsonl", [{"tools": tools, "prompt": prompt, "chosen": chosen, "rejected": rejected}] * 2)
    call("check", "--data", "pairs.jsonl", "--model", "model", "--json", "found.json")
    lengths = json.loads((place / "found.json").read_text())["lengths"]

    def length(text):
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    text = tokenizer.apply_chat_template(prompt, tools=tools, tokenize=False, add_generation_prompt=True)
    assert lengths["prompt"]["max"] == length(text)
    assert lengths["chosen"]["max"] == length(f"<think>I looked it up.</think>sun{END}")


def test_a_turn_end_that_is_not_special_ends_answers_and_is_trained_on(place):
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens([AddedToken("<|end|>", special=False, normalized=False)])
    tokenizer.chat_template = TEMPLATE.replace(END, "<|end|>")
    end = tokenizer.convert_tokens_to_ids("<|end|>")
    keep(indifferent(tokenizer), tokenizer)
    assert sample("model", "out.jsonl", "--num-samples", "8", "--max-new-tokens", "64") == 0
    answers = [one["token_ids"] for row in read("out.jsonl") for one in row["completions"]]
    assert any(end in ids for ids in answers)
    assert not any(end in ids[:-1] for ids in answers)
    assert encode_completion(tokenizer, Prompt("the cat"), Completion(text="a good day"))[-1] == end


def test_a_model_called_a_is_not_taken_for_model_a(place):
    (place / "votes.csv").write_text("model_a,model_b,winner\nB,A,A\nB,A,A\nB,A,A\nB,A,B\n")
    words = ["--comparisons", "votes.csv", "--bootstrap", "0", "--out"]
    # Both readings are possible here, so that neither is taken.
    assert call("rate", *words, "unsaid") == 2
    for read_as, best in (("names", "A"), ("sides", "B")):
        assert call("rate", *words, read_as, "--winner-column", read_as) == 0
        ratings = json.loads((place / read_as / "ratings.json").read_text())
        assert ratings["models"][0]["model"] == best
