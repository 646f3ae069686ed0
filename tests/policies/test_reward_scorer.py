"""Scores are a text's own: alone, in a batch, packed, whatever stands beside or behind."""

from dataclasses import replace

import pytest
import torch

from logratio.errors import EmptyAnswer, PromptTooLong
from logratio.models.loading import save
from logratio.models.reward_model import add_score_head, load_for_training
from logratio.packed_rows import AnswerGroup
from logratio.policies.reward_scorer import RewardModel, drop_foreign_tokens, group_answers, num_tokens_read
from logratio.records import Completion, Message, Prompt, Sample
from logratio.rollouts.rewards import ModelReward
from tiny_models import exact_llama, random_groups, tiny_llama

VOCABULARY = 50


def exact_scorer(layout="packed"):
    return RewardModel(add_score_head(exact_llama(VOCABULARY), source="exact", seed=0), None, layout=layout)


@pytest.fixture
def scorer(tmp_path, tokenizer):
    save(tiny_llama(len(tokenizer)), tokenizer, tmp_path / "start")
    loaded = load_for_training(str(tmp_path / "start"), seed=0)
    return RewardModel(loaded.model, loaded.tokenizer)


@pytest.mark.parametrize("num_answers", [1, 2, 4])
def test_packed_scores_equal_one_sequence_at_a_time_to_1e_10(num_answers):
    """Scores and gradients in float64, prompts shared and rows packed, against a plain forward each."""
    groups = random_groups(7, vocab_size=VOCABULARY, num_answers=num_answers)
    scorer = exact_scorer()
    parameters = list(scorer.model.parameters())
    outer = torch.randn(7 * num_answers, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    packed = scorer.scores(scorer.pack(groups))
    packed_gradient = torch.autograd.grad(packed, parameters, outer)
    alone = []
    for group in groups:
        for answer in group.answers:
            tokens = torch.tensor([[*group.prompt, *answer]])
            alone.append(scorer.model.score(scorer.model.model(input_ids=tokens).last_hidden_state[0, -1])[0])
    alone = torch.stack(alone)
    alone_gradient = torch.autograd.grad(alone, parameters, outer)
    assert (packed - alone).abs().max() < 1e-10
    for left, right in zip(packed_gradient, alone_gradient, strict=True):
        assert (left - right).abs().max() < 1e-10


@pytest.mark.parametrize("max_tokens", [1, 30, 60, 1000])
def test_the_division_into_rows_changes_nothing(max_tokens):
    groups = random_groups(9, vocab_size=VOCABULARY)
    shared, apart = exact_scorer(), exact_scorer("unpacked")
    whole = apart.score_groups(groups, max_tokens=1)
    for found, expected in zip(shared.score_groups(groups, max_tokens=max_tokens), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-10)


def test_rows_hold_as_many_tokens_as_are_counted():
    groups = random_groups(5, vocab_size=VOCABULARY)
    (row,) = exact_scorer().pack(groups)
    assert row.input_ids.shape[1] == sum(map(num_tokens_read, groups))


@torch.no_grad()
def test_tokens_beside_and_behind_an_answer_do_not_change_its_score():
    scorer = exact_scorer()

    def score(*answers, behind=()):
        groups = [AnswerGroup((3, 4), answers), *behind]
        return scorer.scores(scorer.pack(groups)).tolist()

    one, two = (5, 6, 7, 0), (9, 9, 0)
    alone = score(one)[0]
    assert score(one, two)[0] == pytest.approx(alone, abs=1e-12)
    assert score(two, one)[1] == pytest.approx(alone, abs=1e-12)
    assert score(one, behind=[AnswerGroup((8,), (two,))])[0] == pytest.approx(alone, abs=1e-12)
    padded = torch.tensor([[3, 4, *one, 8, 9, 10]])
    hidden = scorer.model.model(input_ids=padded).last_hidden_state[0]
    assert float(scorer.model.score(hidden[5])[0]) == pytest.approx(alone, abs=1e-12)


@torch.no_grad()
def test_the_end_token_itself_is_read():
    scorer = exact_scorer()
    ended, other = AnswerGroup((3, 4), ((5, 6, 0),)), AnswerGroup((3, 4), ((5, 6, 1),))
    (one,), (two,) = scorer.score_groups([ended, other], max_tokens=100)
    assert abs(one - two) > 1e-3


# --- texts -------------------------------------------------------------------------------------------


def test_texts_score_alone_as_in_a_batch_and_equal_ones_equally(scorer):
    texts = [
        (Prompt("the cat"), Completion(text="sat on the mat")),
        (Prompt((Message(role="user", content="a good day"),)), Completion(text="I like this.")),
        (Prompt("the cat"), Completion(text="I hate that.")),
        (Prompt("the cat"), Completion(text="sat on the mat")),
    ]
    together = scorer.score(texts)
    alone = [scorer.score([text])[0] for text in texts]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] == together[3]
    assert abs(together[0] - together[2]) > 1e-4
    assert scorer.score(texts, max_tokens=1) == pytest.approx(alone, abs=1e-5)
    assert scorer.score([]) == []


def test_the_layout_is_settled_again_only_for_longer_texts(scorer, monkeypatch):
    settled = []
    monkeypatch.setattr(scorer, "select_layout", lambda groups: settled.append(len(groups)))
    short, long = (
        (Prompt("the cat"), Completion(text="sat")),
        (Prompt("the cat"), Completion(text="sat " * 9)),
    )
    for texts, expected in (([short], 1), ([short] * 3, 1), ([long, short], 2), ([long], 2), ([short], 2)):
        scorer.score(texts)
        assert len(settled) == expected


def test_an_answer_that_was_cut_off_has_no_end_token_to_be_read_at(scorer):
    prompt, whole = Prompt("the cat"), Completion(text="sat on")
    ended, cut = scorer.score([(prompt, whole), (prompt, replace(whole, finish_reason="length"))])
    assert abs(ended - cut) > 1e-4


def test_sampled_tokens_are_read_where_they_are_this_tokenizer_s(tokenizer):
    text = "the cat"
    letters = tuple(tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "the")
    spelled = Completion(text="the", token_ids=(*letters, tokenizer.eos_token_id))
    assert drop_foreign_tokens(tokenizer, spelled) is spelled
    foreign = Completion(text=text, token_ids=(100_000, 3), logprobs=(-1.0, -1.0))
    assert drop_foreign_tokens(tokenizer, foreign) == Completion(text=text)
    assert drop_foreign_tokens(tokenizer, replace(foreign, token_ids=(5, 6))).token_ids is None


def test_what_cannot_be_scored_is_named_with_its_place(scorer):
    fine = (Prompt("the cat"), Completion(text="sat"))
    with pytest.raises(EmptyAnswer) as fault:
        scorer.score([fine, (Prompt("the dog"), Completion(text="", finish_reason="length"))])
    assert "text 2" in fault.value.where
    assert "the dog" in fault.value.where
    with pytest.raises(PromptTooLong, match="512"):
        scorer.score([(Prompt("the cat"), Completion(text="x" * 600))])


def test_an_answer_that_cannot_be_read_costs_only_itself(scorer, capsys):
    fine, long = Completion(text="sat"), Completion(text="x" * 600)
    samples = [
        Sample(prompt=Prompt("the cat"), completions=(fine, long), columns={}, source="f.jsonl:7"),
        Sample(prompt=Prompt("a dog"), completions=(fine, *[long] * 4), columns={}, source="f.jsonl:8"),
    ]
    reward = ModelReward("judge", scorer)
    (one, none), (two, *rest) = reward(samples)
    expected = scorer.score([(Prompt("the cat"), fine), (Prompt("a dog"), fine)])
    assert [one, two] == pytest.approx(expected, abs=1e-6)
    assert [none, *rest] == [None] * 5
    assert reward.num_unread == 5
    shown = capsys.readouterr().err
    assert "judge cannot read an answer, which has no reward: PromptTooLong" in shown
    assert "f.jsonl:7" in shown
    # Where it can read none at all, it is the wrong judge.
    with pytest.raises(PromptTooLong):
        reward([Sample(prompt=Prompt("the cat"), completions=(long, long), columns={})])


def test_an_end_token_written_as_text_is_text(scorer):
    prompt, text = Prompt("the cat"), "sat<|im_end|> on"
    written, other = scorer.score([(prompt, Completion(text=text)), (prompt, Completion(text="sat"))])
    assert abs(written - other) > 1e-6


def test_sequences_are_gathered_by_prompt_in_order():
    groups, places = group_answers([((1,), (2,)), ((1,), (3,)), ((4,), (2,)), ((1,), (2,))])
    assert groups == [AnswerGroup((1,), ((2,), (3,))), AnswerGroup((4,), ((2,),))]
    assert places == [(0, 0), (0, 1), (1, 0), (0, 0)]


# --- the layout --------------------------------------------------------------------------------------


def test_an_architecture_without_positions_to_give_is_computed_apart(scorer, capsys):
    forward = scorer.model.model.forward

    def recurrent(input_ids, use_cache):
        return forward(input_ids=input_ids, use_cache=use_cache)

    scorer.model.model.forward = recurrent
    groups = random_groups(3, vocab_size=VOCABULARY)
    assert scorer.select_layout(groups) == 0.0
    assert scorer.layout == "unpacked"
    assert "TypeError" in capsys.readouterr().err
    assert len(scorer.score_groups(groups, max_tokens=100)) == 3


def test_a_fault_of_the_device_is_not_taken_for_the_architecture(scorer, monkeypatch):
    fault, evaluate = RuntimeError("CUDA error: device-side assert triggered"), RewardModel.evaluate

    def broken(self, row):
        if row.spans:
            raise fault
        return evaluate(self, row)

    monkeypatch.setattr(RewardModel, "evaluate", broken)
    with pytest.raises(RuntimeError) as caught:
        scorer.select_layout(random_groups(3, vocab_size=VOCABULARY))
    assert caught.value is fault
    assert scorer.layout == "packed"


def test_an_architecture_that_mixes_tokens_otherwise_is_computed_apart(scorer, capsys):
    groups = random_groups(4, vocab_size=VOCABULARY)
    assert scorer.select_layout(groups) < 1e-5
    assert scorer.layout == "packed"

    def leaking(module, inputs, output):
        """Add the mean over the row, as a recurrence would carry it from answer to answer."""
        output.last_hidden_state = output.last_hidden_state + output.last_hidden_state.mean(1, keepdim=True)
        return output

    handle = scorer.model.model.register_forward_hook(leaking)
    assert scorer.select_layout(groups) == 0.0
    handle.remove()
    assert scorer.layout == "unpacked"
    assert "cannot share a prompt" in capsys.readouterr().err
    assert scorer.select_layout(groups) == 0.0
