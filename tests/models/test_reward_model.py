"""Scalar heads: where the score is read, what is saved, and that transformers reads the same."""

import copy
import json

import pytest
import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForSequenceClassification,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedTokenizerFast,
)

from logratio.errors import BadConfig, ChatTemplateMismatch, ModelNotFound
from logratio.kernels.block_diagonal_sdpa import packed_inputs
from logratio.kernels.packing import include_last_token, last_token_positions, pack
from logratio.models.loading import save
from logratio.models.reward_model import (
    NEW_PADDING,
    add_score_head,
    choose_pad_token,
    load_for_training,
    load_reward_model,
)
from logratio.packed_rows import AnswerGroup
from logratio.policies.reward_scorer import RewardModel
from tiny_models import END, tiny_llama, tiny_tokenizer

TEXTS = ("the cat sat", "a good day, a bad day", "I", "I hate that. the dog ran after the ball")


@pytest.fixture
def language_model(tmp_path, tokenizer):
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "start")
    return str(tmp_path / "start")


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, **changes}))


def one_token_tokenizer():
    """A tokenizer whose only control token ends and pads, as GPT-2's does."""
    backend = Tokenizer(models.WordLevel({END: 0, "a": 1, "b": 2, "c": 3}, unk_token="c"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.add_special_tokens([AddedToken(END, special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=END, pad_token=END)


# --- rows that are read to their last token ----------------------------------------------------------


def test_a_row_for_scores_as_worked_by_hand():
    groups = [AnswerGroup((10, 11), ((20, 21, 0), (30, 0))), AnswerGroup((12,), ((0,),))]
    row = pack(include_last_token(groups))
    assert row.input_ids.tolist() == [[10, 11, 20, 21, 0, 30, 0, 12, 0]]
    assert row.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1]]
    assert last_token_positions(row).tolist() == [4, 6, 8]
    assert packed_inputs(row)["attention_mask"][0, 0].int()[6].tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0]


# --- the head ----------------------------------------------------------------------------------------


def test_the_head_is_small_and_a_function_of_the_seed():
    heads = [
        add_score_head(tiny_llama(50, hidden=256, layers=1), source="x", seed=seed).score.weight.detach()
        for seed in (0, 0, *range(1, 12))
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    # 12 · 256 draws: the standard deviation is known to about 1.3 per cent.
    assert float(torch.cat(heads[1:]).std()) == pytest.approx(257**-0.5, rel=0.06)


def test_a_head_takes_the_body_as_it_is_and_draws_nothing_from_the_global_generator():
    model = tiny_llama(50)
    body, weights = model.base_model, copy.deepcopy(model.base_model.state_dict())
    torch.manual_seed(5)
    before = torch.get_rng_state()
    scoring = add_score_head(model, source="x", seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert scoring.base_model is body
    assert all(torch.equal(weights[name], value) for name, value in scoring.base_model.state_dict().items())
    assert not any(parameter.is_meta for parameter in scoring.parameters())


@pytest.mark.parametrize(
    "model",
    [
        BertLMHeadModel(
            BertConfig(
                vocab_size=50,
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                is_decoder=True,
            )
        ),
        MambaForCausalLM(MambaConfig(vocab_size=50, hidden_size=16, num_hidden_layers=1)),
    ],
    ids=["a head of another kind", "no classifier at all"],
)
def test_an_architecture_without_a_scalar_head_is_refused(model):
    with pytest.raises(BadConfig, match=r"no head that gives one number|no classifier for"):
        add_score_head(model, source="mine", seed=0)


# --- padding -----------------------------------------------------------------------------------------


def test_the_end_token_does_not_pad_and_its_embedding_learns(language_model):
    loaded = load_for_training(language_model, seed=0)
    assert loaded.tokenizer.pad_token != END
    assert loaded.model.config.pad_token_id == loaded.tokenizer.pad_token_id
    assert END in loaded.notes[-1]
    scorer = RewardModel(loaded.model, loaded.tokenizer)
    end = loaded.tokenizer.eos_token_id
    scorer.scores(scorer.pack([AnswerGroup((5, 6), ((7, end),))])).sum().backward()
    assert loaded.model.get_input_embeddings().weight.grad[end].abs().max() > 0


def test_a_padding_token_of_its_own_stays(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.pad_token = "<|im_start|>"
    model = add_score_head(tiny_llama(len(own)), source="x", seed=0)
    assert choose_pad_token(model, own) == ()
    assert own.pad_token == "<|im_start|>"


def test_where_every_control_token_ends_answers_a_new_one_pads():
    own = one_token_tokenizer()
    model = add_score_head(tiny_llama(4), source="x", seed=0)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert NEW_PADDING in choose_pad_token(model, own)[0]
    assert torch.equal(torch.get_rng_state(), before)
    assert own.pad_token_id == model.config.pad_token_id == 4
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == 5
    assert model.get_input_embeddings().weight[4].abs().max() == 0


def test_a_new_padding_token_takes_a_row_that_is_there():
    own = one_token_tokenizer()
    model = add_score_head(tiny_llama(9), source="x", seed=0)
    assert NEW_PADDING in choose_pad_token(model, own)[0]
    assert model.config.pad_token_id == 4
    assert model.get_input_embeddings().num_embeddings == 9


# --- transformers' own class -------------------------------------------------------------------------


def gpt2(vocabulary):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=vocabulary, n_positions=128, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0
    )
    return GPT2LMHeadModel(config).eval()


@pytest.mark.parametrize("make", [tiny_llama, gpt2])
@pytest.mark.parametrize("side", ["right", "left"])
def test_transformers_reads_the_same_scores_from_what_is_saved(tmp_path, make, side):
    """With the end token as padding it would read the score before the end, and another in a batch."""
    own = tiny_tokenizer()
    save(make(len(own)), own, tmp_path / "start")
    loaded = load_for_training(str(tmp_path / "start"), seed=0)
    save(loaded.model, loaded.tokenizer, tmp_path / "saved")

    ends = [[*loaded.tokenizer(text)["input_ids"], loaded.tokenizer.eos_token_id] for text in TEXTS]
    scorer = RewardModel(loaded.model, loaded.tokenizer)
    groups = [AnswerGroup(tuple(ids[:1]), (tuple(ids[1:]),)) for ids in ends]
    ours = torch.tensor(scorer.score_groups(groups, max_tokens=10_000))[:, 0]

    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "saved").eval()
    reopened = load_reward_model(str(tmp_path / "saved"))
    assert reopened.fingerprint == loaded.fingerprint
    assert reopened.notes == ()
    reopened.tokenizer.padding_side = side
    batch = reopened.tokenizer.pad({"input_ids": ends}, return_tensors="pt")
    # GPT-2 counts positions by place, whatever is padding: only Llama's are counted by the mask.
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = theirs(**batch, position_ids=positions).logits[:, 0]
        alone = torch.cat([theirs(input_ids=torch.tensor([ids])).logits[:, 0] for ids in ends])
    assert (ours - alone).abs().max() < 1e-5
    assert (ours - padded).abs().max() < 1e-5
    assert ours.std() > 0.05


def test_a_reward_model_goes_on_with_its_own_head(tmp_path, language_model):
    first = load_for_training(language_model, seed=7)
    save(first.model, first.tokenizer, tmp_path / "rm")
    again = load_for_training(str(tmp_path / "rm"), seed=0)
    assert torch.equal(again.model.score.weight, first.model.score.weight)


# --- what is refused ---------------------------------------------------------------------------------


def test_a_language_model_gives_no_score(language_model):
    with pytest.raises(ModelNotFound, match="not a reward model"):
        load_reward_model(language_model)


def test_a_classifier_of_two_labels_is_refused(tmp_path, tokenizer):
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_labels=2,
    )
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(BadConfig, match="one number"):
        load_reward_model(str(tmp_path / "two"))


def test_a_head_that_was_never_saved_is_named(tmp_path, language_model, tokenizer):
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "bare")
    edit_config(tmp_path / "bare", architectures=["LlamaForSequenceClassification"], id2label={"0": "score"})
    with pytest.raises(ModelNotFound, match=r"score\.weight"):
        load_reward_model(str(tmp_path / "bare"))


def test_damaged_weights_are_named(tmp_path, language_model):
    loaded = load_for_training(language_model, seed=0)
    save(loaded.model, loaded.tokenizer, tmp_path / "rm")
    (tmp_path / "rm" / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelNotFound, match="cannot be loaded"):
        load_reward_model(str(tmp_path / "rm"))


def test_without_a_chat_template_only_our_own_say_how_they_read_conversations(tmp_path, plain_tokenizer):
    save(tiny_llama(len(plain_tokenizer)), plain_tokenizer, tmp_path / "start")
    loaded = load_for_training(str(tmp_path / "start"), seed=0)
    save(loaded.model, loaded.tokenizer, tmp_path / "rm")
    assert load_reward_model(str(tmp_path / "rm")).fingerprint == loaded.fingerprint
    edit_config(tmp_path / "rm", logratio_conversation=None)
    with pytest.raises(ChatTemplateMismatch, match="no chat template"):
        load_reward_model(str(tmp_path / "rm"))
