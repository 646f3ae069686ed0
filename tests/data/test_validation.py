"""What is left to train on: every token fault by name and line, counts that add up, refusals."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio import errors
from logratio.data.preference_formats import ReadResult, UnusableRow
from logratio.data.validation import check_comparisons
from logratio.models import tokenisation
from logratio.records import Comparison, Completion, Message, Prompt
from tiny_models import BEGIN, END, tiny_tokenizer


def pair(row: int, *, prompt="the cat", chosen=" sat", rejected=" ran off", **completion) -> Comparison:
    return Comparison(
        prompt=Prompt(prompt) if isinstance(prompt, str) else prompt,
        chosen=Completion(text=chosen, **completion),
        rejected=Completion(text=rejected),
        source=f"f:{row}",
    )


def result(*comparisons: Comparison, unusable: int = 0) -> ReadResult:
    bad = [
        UnusableRow(source=f"f:{900 + n}", fault_name="EmptyAnswer", what="empty") for n in range(unusable)
    ]
    return ReadResult(comparisons=list(comparisons), unusable=bad)


def distinct(count: int) -> list[Comparison]:
    return [pair(row, prompt=f"the cat {row}") for row in range(1, count + 1)]


# --- tokens ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("chat", [True, False])
def test_usable_rows_are_prompt_and_answers_as_tokens(chat):
    tokenizer = tiny_tokenizer(chat=chat)
    comparison = pair(1)
    (encoded,) = check_comparisons(result(comparison), tokenizer).usable
    assert encoded.comparison == comparison
    assert encoded.prompt_ids == tokenisation.encode_prompt(tokenizer, comparison.prompt)
    assert tokenizer.decode(encoded.chosen_ids) == f" sat{END}"
    assert tokenizer.decode(encoded.rejected_ids) == f" ran off{END}"
    assert not encoded.chosen_cut
    assert not encoded.rejected_cut


BAD_PAIRS = {
    "PromptTooLong": (False, {"prompt": "x" * 60}),
    "BoundaryMismatch": (False, {"prompt": "the c", "chosen": "at"}),
    "SpecialTokenTrouble": (True, {"prompt": f"{BEGIN}user\nhi{END}\n"}),
    "SpecialTokenTrouble in an answer": (False, {"chosen": f" a{END} b"}),
    "IdenticalPair": (False, {"chosen": " " + "y" * 60 + "a", "rejected": " " + "y" * 60 + "b"}),
    "ForeignTokens": (False, {"token_ids": (5, 6, 7)}),
    "ForeignTokens beyond the vocabulary": (False, {"token_ids": (10_000, 0)}),
    "ChatTemplateMismatch": (True, {"prompt": Prompt((Message(role="user", content="refuse"),))}),
}


@pytest.mark.parametrize(("name", "chat", "change"), [(n, *v) for n, v in BAD_PAIRS.items()], ids=BAD_PAIRS)
def test_a_pair_that_cannot_be_trained_on_is_left_out_by_name_and_line(name, chat, change):
    tokenizer = tiny_tokenizer(chat=chat)
    if chat:
        tokenizer.chat_template = (
            "{% if messages[0]['content'] == 'refuse' %}{{ raise_exception('no') }}{% endif %}"
            + tokenizer.chat_template
        )
    good = [pair(row, prompt=f"a {row}") for row in (1, 3)]
    report = check_comparisons(result(good[0], pair(2, **change), good[1]), tokenizer, max_length=48)
    assert report.faults == {name.split()[0]: ["f:2"]}
    assert [encoded.comparison for encoded in report.usable] == report.comparisons == good
    assert report.unusable[0].what


def test_the_prompt_s_own_limit(plain_tokenizer):
    comparison = pair(1)
    length = len(tokenisation.encode_prompt(plain_tokenizer, comparison.prompt))
    assert check_comparisons(result(comparison), plain_tokenizer, max_prompt_length=length).num_usable == 1
    report = check_comparisons(result(comparison), plain_tokenizer, max_prompt_length=length - 1)
    assert report.faults == {"PromptTooLong": ["f:1"]}


def test_a_prompt_that_leaves_room_for_one_token_is_the_longest(plain_tokenizer):
    comparison = pair(1, chosen=" x", rejected="y")
    length = len(tokenisation.encode_prompt(plain_tokenizer, comparison.prompt))
    (encoded,) = check_comparisons(result(comparison), plain_tokenizer, max_length=length + 1).usable
    assert len(encoded.chosen_ids) == len(encoded.rejected_ids) == 1
    assert check_comparisons(result(comparison), plain_tokenizer, max_length=length).faults == {
        "PromptTooLong": ["f:1"]
    }


def test_a_cut_answer_has_no_end_token_and_is_counted_by_side(plain_tokenizer):
    comparison = pair(1, chosen=" " + "z" * 40, rejected=" q")
    report = check_comparisons(result(comparison), plain_tokenizer, max_length=20)
    (encoded,) = report.usable
    assert len(encoded.prompt_ids) + len(encoded.chosen_ids) == 20
    assert plain_tokenizer.eos_token_id not in encoded.chosen_ids
    assert encoded.rejected_ids[-1] == plain_tokenizer.eos_token_id
    assert (encoded.chosen_cut, encoded.rejected_cut) == (True, False)
    assert report.truncated == {"chosen": 1, "rejected": 0}
    assert any("2 points" in warning for warning in report.warnings)


def test_an_answer_that_just_fits_keeps_its_end_token(plain_tokenizer):
    comparison = pair(1, chosen=" " + "z" * 40, rejected=" q")
    whole = check_comparisons(result(comparison), plain_tokenizer).usable[0]
    longest = len(whole.prompt_ids) + len(whole.chosen_ids)
    fits = check_comparisons(result(comparison), plain_tokenizer, max_length=longest)
    assert fits.usable == [whole]
    assert fits.truncated == {"chosen": 0, "rejected": 0}
    short = check_comparisons(result(comparison), plain_tokenizer, max_length=longest - 1).usable[0]
    assert short.chosen_ids == whole.chosen_ids[:-1]


def test_sampled_tokens_are_trained_on_as_drawn(plain_tokenizer):
    drawn = tuple(plain_tokenizer.convert_tokens_to_ids(list("sat")))
    assert drawn != tuple(plain_tokenizer("sat")["input_ids"])
    comparison = pair(1, chosen="sat", token_ids=(*drawn, plain_tokenizer.eos_token_id))
    (encoded,) = check_comparisons(result(comparison), plain_tokenizer).usable
    assert encoded.chosen_ids == (*drawn, plain_tokenizer.eos_token_id)


def test_a_tokenizer_without_an_end_token_refuses_training():
    tokenizer = tiny_tokenizer(chat=False)
    tokenizer.eos_token = None
    report = check_comparisons(result(*distinct(3)), tokenizer)
    assert report.refuses_training
    assert "SpecialTokenTrouble" in report.reasons[0]


# --- labels ----------------------------------------------------------------------------------------


def test_votes_without_a_majority_are_left_out_and_others_kept(plain_tokenizer):
    rows = [
        pair(1),
        pair(2, prompt="a"),
        pair(3).swap(),
        pair(4, prompt="b"),
        pair(5, prompt="b"),
        pair(6, prompt="b").swap(),
    ]
    report = check_comparisons(result(*rows), plain_tokenizer)
    assert report.faults == {"ContradictoryLabels": ["f:1", "f:3"]}
    assert [row.source for row in report.comparisons] == ["f:2", "f:4", "f:5", "f:6"]
    assert [encoded.comparison.source for encoded in report.usable] == ["f:2", "f:4", "f:5", "f:6"]
    assert len(report.contradictions) == 2
    assert any("majority" in warning for warning in report.warnings)
    assert any("equal votes" in warning for warning in report.warnings)


def test_cycles_are_reported_and_kept():
    texts = " a", " b", " c"
    rows = [pair(n, chosen=texts[n % 3], rejected=texts[(n + 1) % 3]) for n in (1, 2, 3)]
    report = check_comparisons(result(*rows))
    assert report.num_usable == 3
    assert len(report.cycles) == 1
    assert any("cycles" in warning for warning in report.warnings)


def test_a_prompt_repeated_in_both_answers_is_reported():
    rows = [pair(1, chosen="the cat sat", rejected="the cat ran"), pair(2, chosen="the cat sat")]
    assert check_comparisons(result(*rows)).prompts_repeated == ["f:1"]


def test_length_bias_is_warned_of():
    rows = [pair(n, prompt=str(n), chosen=" " + "long " * 9) for n in range(40)]
    report = check_comparisons(result(*rows))
    assert (report.length_bias.accuracy, report.length_bias.unit) == (1.0, "characters")
    assert any("longer wins" in warning for warning in report.warnings)
    assert not check_comparisons(result(*rows[:20], *(row.swap() for row in rows[20:]))).warnings


# --- the whole -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("unusable", "refused"), [(0, False), (2, False), (3, True)])
def test_training_is_refused_beyond_a_share_of_unusable_rows(unusable, refused):
    report = check_comparisons(result(*distinct(18), unusable=unusable), max_unusable_share=0.1)
    assert report.refuses_training is refused
    assert bool(report.reasons) is refused


def test_training_is_refused_with_too_few_rows():
    assert check_comparisons(result(unusable=2), max_unusable_share=1).refuses_training
    assert not check_comparisons(result(*distinct(4)), min_usable=4).refuses_training
    assert check_comparisons(result(*distinct(4)), min_usable=5).refuses_training


@pytest.mark.parametrize(
    "limits",
    [
        {"max_length": 1},
        {"max_prompt_length": 0},
        {"max_prompt_length": 64, "max_length": 64},
        {"max_unusable_share": 1.5},
        {"max_unusable_share": -1},
    ],
)
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(errors.BadConfig):
        check_comparisons(result(*distinct(1)), **limits)


@settings(derandomize=True, max_examples=40, deadline=None)
@given(
    texts=st.lists(
        st.tuples(
            *[st.sampled_from(["the c", "at", " sat", "a", " ran", "x" * 30, END, " a" + END + "b"])] * 3
        ),
        max_size=12,
    ),
    with_tokens=st.booleans(),
    unusable=st.integers(0, 3),
)
def test_the_counts_add_up(plain_tokenizer, texts, with_tokens, unusable):
    rows = [pair(n, prompt=p, chosen=c, rejected=r) for n, (p, c, r) in enumerate(texts)]
    report = check_comparisons(
        result(*rows, unusable=unusable), plain_tokenizer if with_tokens else None, max_length=24
    )
    counts = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert (
        counts["num_rows"] == len(rows) + unusable == counts["num_usable"] + sum(counts["unusable"].values())
    )
    assert report.num_rows == report.num_usable + sum(map(len, report.faults.values()))
    places = [row.source for row in report.comparisons] + [
        place for rows in report.faults.values() for place in rows
    ]
    assert sorted(places) == sorted([row.source for row in rows] + [f"f:{900 + n}" for n in range(unusable)])
    assert len(report.usable) == (report.num_usable if with_tokens else 0)
    assert {name: len(rows) for name, rows in counts["faults"].items()} == counts["unusable"]
    assert f"{report.num_rows} rows: {report.num_usable} usable" in report.summary()
