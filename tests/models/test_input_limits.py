"""What a model can read, from its configuration: tokens without a row and rows behind the last position."""

from dataclasses import replace

import pytest
import torch
from tokenizers import AddedToken
from transformers import (
    BloomConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    Phi3Config,
)

from logratio import errors
from logratio.data.preference_formats import ReadResult
from logratio.data.validation import check_comparisons
from logratio.models.config_limits import limits_of_config, limits_of_model
from logratio.models.input_limits import ModelLimits, ensure_tokenizer_fits
from logratio.models.loading import load, load_tokenizer, read_limits, save
from logratio.models.reward_model import load_for_training, load_reward_model
from logratio.policies.implicit_reward import ImplicitReward
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import RewardModel
from logratio.records import Comparison, Completion, Prompt
from tiny_models import BEGIN, SIZES, tiny_llama, tiny_tokenizer

DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}
SHORT_AND_LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 4,
    "long_factor": [4.0] * 4,
    "original_max_position_embeddings": 24,
}


def pairs(*prompts):
    """Comparisons as if read from a file, from line 1."""
    return [
        Comparison(
            prompt=Prompt(prompt),
            chosen=Completion(text=" sat"),
            rejected=Completion(text=" ran off"),
            source=f"f:{row}",
        )
        for row, prompt in enumerate(prompts, start=1)
    ]


def check(tokenizer, limits, *prompts, **settings):
    result = ReadResult(comparisons=pairs(*prompts), unusable=[])
    return check_comparisons(result, tokenizer, limits=limits, max_unusable_share=1.0, **settings)


CONFIGURATIONS = {
    "learned positions": (GPT2Config(vocab_size=300, n_positions=64), (300, 64, True)),
    "a table of angles": (GPTJConfig(vocab_size=300, n_positions=64), (300, 64, True)),
    "a table of slopes": (MptConfig(vocab_size=300, max_seq_len=64), (300, 64, True)),
    "rotary": (LlamaConfig(vocab_size=300, max_position_embeddings=64), (300, 64, False)),
    "no positions": (BloomConfig(vocab_size=300), (300, None, False)),
    "dynamic": (
        LlamaConfig(vocab_size=300, max_position_embeddings=64, rope_parameters=DYNAMIC),
        (300, 64, True),
    ),
    "longrope": (
        Phi3Config(
            vocab_size=300,
            hidden_size=32,
            num_attention_heads=4,
            max_position_embeddings=96,
            original_max_position_embeddings=24,
            rope_parameters=SHORT_AND_LONG,
            pad_token_id=0,
        ),
        (300, 24, True),
    ),
    "kinds of layers": (Gemma3TextConfig(vocab_size=300, max_position_embeddings=64), (300, 64, False)),
}


@pytest.mark.parametrize(("config", "expected"), CONFIGURATIONS.values(), ids=CONFIGURATIONS)
def test_a_configuration_says_what_its_model_reads(config, expected):
    limits = limits_of_config(config)
    assert (limits.embedding_rows, limits.positions, limits.positions_hard_limit) == expected


def test_two_models_read_what_both_do():
    wide = ModelLimits(embedding_rows=300, positions=64)
    short = ModelLimits(
        embedding_rows=310, positions=48, positions_hard_limit=True, positions_reason="so it is"
    )
    assert wide & short == short & wide == replace(short, embedding_rows=300)
    assert wide & ModelLimits() == ModelLimits() & wide == wide


@pytest.fixture
def unembedded():
    """A tokenizer with a token that was added later, and how many tokens there were before."""
    tokenizer = tiny_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<|new|>", special=False)])
    return tokenizer, rows


def test_a_row_with_a_token_that_has_no_embedding_is_left_out_by_line(unembedded):
    tokenizer, rows = unembedded
    report = check(tokenizer, ModelLimits(embedding_rows=rows), "the cat", "a <|new|> day", "the dog")
    assert report.faults == {"TokenWithoutEmbedding": ["f:2"]}
    assert f"'<|new|>' ({rows})" in report.unusable[0].what
    assert [row.source for row in report.comparisons] == ["f:1", "f:3"]
    assert check(tokenizer, ModelLimits(embedding_rows=rows + 1), "a <|new|> day").faults == {}
    assert check(tokenizer, ModelLimits(), "a <|new|> day").faults == {}


def test_a_template_that_writes_such_a_token_is_refused_at_once(tmp_path):
    tokenizer = tiny_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.chat_template = tokenizer.chat_template.replace(BEGIN, "<|turn|>")
    save(tiny_llama(rows), tokenizer, tmp_path / "model")
    for opening in (load, load_tokenizer):
        with pytest.raises(
            errors.TokenWithoutEmbedding, match=r"the chat template writes.*<\|turn\|>"
        ) as fault:
            opening(str(tmp_path / "model"))
        assert fault.value.where == str(tmp_path / "model")
        assert "resize_token_embeddings" in fault.value.action


def test_a_turn_s_end_without_an_embedding_is_refused_too():
    tokenizer = tiny_tokenizer()
    rows = len(tokenizer)
    tokenizer.add_tokens([AddedToken("<|done|>", special=True)])
    # Of an answer alone: no prompt is written with it.
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] }}"
        "{% if m['role'] == 'assistant' %}{{ '<|done|>' }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    with pytest.raises(errors.TokenWithoutEmbedding, match=r"<\|done\|>"):
        ensure_tokenizer_fits(tokenizer, ModelLimits(embedding_rows=rows), source="m")
    ensure_tokenizer_fits(tokenizer, ModelLimits(embedding_rows=rows + 1), source="m")


def test_limits_are_read_without_weights(tmp_path, tokenizer):
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "model")
    expected = ModelLimits(embedding_rows=len(tokenizer), positions=512)
    assert limits_of_model(load(str(tmp_path / "model")).model) == expected
    for file in (tmp_path / "model").glob("*.safetensors"):
        file.write_bytes(b"")
    assert read_limits(str(tmp_path / "model")) == expected


# --- positions --------------------------------------------------------------------------------------


def test_rows_end_at_the_last_position_and_longer_prompts_are_left_out(plain_tokenizer):
    limits = ModelLimits(positions=16, positions_hard_limit=True)
    report = check(plain_tokenizer, limits, "the cat", "x" * 13, "x" * 16)
    assert report.faults == {"PromptTooLong": ["f:3"]}
    assert "16 positions" in report.unusable[0].what
    assert [len(one.prompt_ids) + len(one.rejected_ids) for one in report.usable][1] == 16
    assert (report.usable[1].rejected_cut, report.truncated["rejected"]) == (True, 1)
    assert any("16 tokens instead of max_length 1024" in warning for warning in report.warnings)


def test_rotary_positions_go_on_and_it_is_said(plain_tokenizer):
    limits = ModelLimits(positions=16)
    report = check(plain_tokenizer, limits, "the cat", "x" * 15, "x" * 30)
    assert report.faults == {}
    assert [warning for warning in report.warnings if "2 rows have more tokens than the 16" in warning]
    assert not check(plain_tokenizer, limits, "a").warnings


def test_what_is_checked_is_what_a_model_with_learned_positions_computes(plain_tokenizer):
    config = GPT2Config(
        vocab_size=len(plain_tokenizer), n_positions=16, n_embd=16, n_layer=1, n_head=2, eos_token_id=0
    )
    model = GPT2LMHeadModel(config).eval()
    report = check(plain_tokenizer, limits_of_model(model), "x" * 15, "the cat")
    for one in report.usable:
        row = torch.tensor([[*one.prompt_ids, *one.chosen_ids]])
        assert row.shape[1] <= 16
        assert model(input_ids=row).logits.isfinite().all()
    with pytest.raises(IndexError):
        model(input_ids=torch.zeros(1, 17, dtype=torch.long))


@pytest.mark.parametrize("rope", [DYNAMIC, SHORT_AND_LONG], ids=["dynamic", "longrope"])
def test_no_number_within_the_positions_depends_on_what_stands_beside(rope):
    """Behind them it does, which is why the positions end there."""
    torch.manual_seed(0)
    sizes = SIZES | {"max_position_embeddings": 24 if rope is DYNAMIC else 96}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=50, rope_parameters=dict(rope), **sizes)).eval()
    longest = limits_of_model(model).positions
    assert longest == 24
    row = torch.arange(longest)[None] % 50

    @torch.no_grad()
    def beside(other):
        """The row's numbers in a batch with a row of `other` tokens."""
        ids = torch.zeros(2, max(longest, other), dtype=torch.long)
        ids[0, :longest] = row
        positions = torch.arange(ids.shape[1]).expand(2, -1).clone()
        positions[0, longest:] = 0
        return model(input_ids=ids, position_ids=positions).logits[0, :longest]

    alone = beside(longest)
    assert torch.equal(beside(longest), alone)
    assert float((beside(40) - alone).abs().max()) > 1e-3


def test_an_implicit_reward_reads_what_both_of_its_models_do(plain_tokenizer):
    rows = len(plain_tokenizer)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "eos_token_id": 0}
    both = [
        LanguagePolicy(
            GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=positions, **sizes)).eval(),
            plain_tokenizer,
        )
        for vocabulary, positions in ((rows, 20), (rows - 1, 40))
    ]
    scorer = ImplicitReward(*both)
    assert (scorer.limits.embedding_rows, scorer.limits.positions) == (rows - 1, 20)
    fits = Prompt("x" * 16), Completion(text="y", finish_reason="length")
    assert len(scorer.score([fits])) == 1
    with pytest.raises(errors.PromptTooLong, match="21 tokens"):
        scorer.score([(Prompt("x" * 16), Completion(text="y" * 4))])
    with pytest.raises(errors.PromptTooLong, match="21 tokens"):
        scorer.ensure_prompt(Prompt("x" * 16), max_new_tokens=5)
    with pytest.raises(errors.TokenWithoutEmbedding):
        scorer.ensure_prompt(Prompt(plain_tokenizer.decode([rows - 1])), max_new_tokens=1)


# --- reward models ----------------------------------------------------------------------------------


def test_rows_that_only_pad_stand_for_no_token(tmp_path):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] + '<|im_end|>' }}{% endfor %}"
    rows = len(tokenizer)
    model = tiny_llama(rows)
    model.generation_config.eos_token_id = [0, 1]
    tokenizer.add_tokens([AddedToken("<|new|>", special=False)])
    save(model, tokenizer, tmp_path / "model")
    loaded = load_for_training(str(tmp_path / "model"), seed=0)
    assert loaded.model.get_input_embeddings().num_embeddings == rows + 2
    assert any(f"widened from {rows} to {rows + 2}" in note for note in loaded.notes)
    save(loaded.model, loaded.tokenizer, tmp_path / "reward")
    assert read_limits(str(tmp_path / "reward")).embedding_rows == rows
    opened = load_reward_model(str(tmp_path / "reward"))
    scorer = RewardModel(opened.model, opened.tokenizer)
    with pytest.raises(errors.TokenWithoutEmbedding, match="new"):
        scorer.score([(Prompt("a <|new|> day"), Completion(text="b"))])
    assert len(scorer.score([(Prompt("a day"), Completion(text="b"))])) == 1
