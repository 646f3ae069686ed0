"""Rows with tools, reasoning and parts: what is read, what is left out by name, and that nothing is lost."""

from __future__ import annotations

import json

import pytest

from chat_templates import HERMES, KINDS, REASONING_OF_THE_LAST_TURN, tokenizer_of
from logratio.annotate.domain.pairs import Pair, make_pair
from logratio.data.jsonl import read_prompts, read_samples
from logratio.data.preference_formats import ReadResult, parse_comparison, read_comparisons
from logratio.data.turns import encode_earlier_turns
from logratio.data.validation import check_comparisons
from logratio.errors import DataFault
from logratio.models import tokenisation
from logratio.records import Completion, Message, Prompt, Sample
from tiny_models import tiny_tokenizer

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": '{"city": "Ulm"}'}}]
USER = {"role": "user", "content": "weather?"}
CALLED = {"role": "assistant", "content": None, "tool_calls": CALL}
RESULT = {"role": "tool", "content": "rain", "tool_call_id": "abc", "name": "weather"}
RAIN = {"role": "assistant", "content": "It rains.", "reasoning_content": "The tool says so."}
SUN = {"role": "assistant", "content": "It shines.", "reasoning_content": "I hope so."}
ROW = {"tools": TOOLS, "prompt": [USER, CALLED, RESULT], "chosen": [RAIN], "rejected": [SUN]}
WHERE = "rows.jsonl:1"


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def parse(row):
    return parse_comparison(row, where=WHERE)


# --- reading ---------------------------------------------------------------------------------------


def test_everything_that_a_row_says_comes_back():
    comparison = parse(ROW)
    assert comparison.prompt.tools == tuple(TOOLS)
    assert [turn.role for turn in comparison.prompt.messages] == ["user", "assistant", "tool"]
    assert (comparison.chosen.text, comparison.chosen.message) == ("It rains.", Message.from_json(RAIN))
    assert comparison.to_json() == ROW
    assert parse(comparison.to_json()) == comparison


def test_tools_may_be_the_text_of_their_json():
    assert parse(ROW | {"tools": json.dumps(TOOLS)}).prompt == parse(ROW).prompt
    assert parse(ROW | {"tools": None}).prompt.tools == ()


def test_turns_before_the_answers_belong_to_the_prompt():
    row = ROW | {"prompt": [USER], "chosen": [CALLED, RESULT, RAIN], "rejected": [CALLED, RESULT, SUN]}
    assert parse(row) == parse(ROW)
    whole = {"tools": TOOLS, "chosen": [*ROW["prompt"], RAIN], "rejected": [*ROW["prompt"], SUN]}
    assert parse(whole) == parse(ROW)
    other = row | {"rejected": [CALLED, RESULT | {"content": "sun"}, SUN]}
    with pytest.raises(DataFault, match="before the last answers differ") as caught:
        parse(other)
    assert caught.value.name == "PromptNotShared"


def test_answers_that_differ_in_their_reasoning_or_calls_alone_are_two():
    other = RAIN | {"reasoning_content": "I looked out."}
    assert parse(ROW | {"rejected": [other]}).rejected.identity != parse(ROW).chosen.identity
    pair = parse(ROW | {"chosen": [CALLED], "rejected": [RAIN]})
    assert (pair.chosen.text, pair.chosen.is_empty) == ("", False)


BAD = {
    "an image": (
        {"prompt": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]},
        "UnsupportedContent",
        "image_url",
    ),
    "a part that is no text": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": 3}]}]},
        "UnsupportedContent",
        "only text is read",
    ),
    "no content": ({"prompt": [{"role": "user", "content": None}]}, "WrongType", "role and content"),
    "calls that are no list": (
        {"chosen": [CALLED | {"tool_calls": "weather()"}]},
        "WrongType",
        r"chosen\[0\].tool_calls is text",
    ),
    "tools that are no list": ({"tools": "a hammer"}, "WrongType", "tools is text"),
    "tools of text": ({"tools": ["weather"]}, "WrongType", "a list of text"),
    "the same answers": ({"rejected": [RAIN]}, "IdenticalPair", "It rains"),
    "a format that is none": ({"prompt": "a", "prompt_format": "html"}, "WrongType", "html"),
    "another name of the role": (
        {"prompt": [USER, CALLED, RESULT | {"role": "function"}]},
        "BadRoles",
        "unknown role 'function'",
    ),
}


@pytest.mark.parametrize(("change", "fault", "word"), BAD.values(), ids=BAD)
def test_what_cannot_be_read_is_left_out_by_name(change, fault, word):
    with pytest.raises(DataFault, match=word) as caught:
        parse(ROW | change)
    assert caught.value.name == fault
    assert caught.value.where == WHERE


# --- what is known by its key ----------------------------------------------------------------------


def test_keys_of_old_prompts_stay_and_what_a_template_reads_makes_others():
    assert Prompt("weather?").key == "1f975d721157e3f0"
    assert Prompt.from_json([USER, {"role": "assistant", "content": "x"}, USER]).key == "47fdd0bf6929f416"
    called = CALLED | {"content": ""}
    forms = [
        [USER, CALLED, RESULT],
        [USER, CALLED | {"tool_calls": [{"function": {"name": "time", "arguments": {}}}]}, RESULT],
        [USER, CALLED | {"reasoning_content": "hm"}, RESULT],
        [USER, {"role": "assistant", "content": ""}, RESULT],
    ]
    prompts = [Prompt.from_json(form) for form in forms]
    keys = {prompt.key for prompt in (*prompts, parse(ROW).prompt)}
    assert len(keys) == len(forms) + 1
    assert Prompt.from_json([USER, called, RESULT]).key == prompts[0].key
    assert Prompt.from_json([USER | {"id": 7}]).key == Prompt("weather?").key


# --- from file to file -----------------------------------------------------------------------------


def test_samples_and_pairs_come_back_whole(tmp_path):
    prompt = parse(ROW).prompt
    answer = Completion.of_turn(Message.from_json(RAIN))
    sample = Sample(prompt=prompt, completions=(answer,), columns={"of": 1})
    (back,) = read_samples(write(tmp_path / "samples.jsonl", sample.to_json())).usable
    assert (back.prompt, back.completions) == (prompt, (answer,))
    assert back.columns == {"of": 1, "tools": TOOLS}, "a reward is given the tools by name"
    pair = make_pair(prompt, answer, Completion(text="x"))
    assert Pair.from_json(json.loads(json.dumps(pair.to_json()))) == pair
    assert make_pair(prompt, Completion(text="x"), answer).id == pair.id
    plain = make_pair(prompt, Completion(text="It rains."), Completion(text="x"))
    assert plain.id != pair.id


def test_a_null_field_is_no_field(tmp_path):
    row = ROW | {"prompt": [USER | {"tool_calls": None, "name": None}]}
    assert parse(row).prompt.messages == (Message(role="user", content="weather?"),)


def test_parquet_s_nulls_are_no_fields(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    calls = [{"function": {"name": name, "arguments": of}} for name, of in (("f", {"x": 1}), ("g", {"y": 2}))]
    called = [CALLED | {"tool_calls": [call]} for call in calls]
    functions = [{"name": "f", "parameters": {"x": "int"}}, {"name": "g", "parameters": {"y": "int"}}]
    tools = [[{"function": one}] for one in functions]
    rows = [
        ROW | {"tools": of, "prompt": [USER, turn, RESULT]} for of, turn in zip(tools, called, strict=True)
    ]
    table = pyarrow.Table.from_pylist(rows)
    assert table.to_pylist() != rows, "Parquet fills objects up"
    parquet.write_table(table, tmp_path / "rows.parquet")
    comparisons = read_comparisons(tmp_path / "rows.parquet").comparisons
    assert [one.prompt.messages[1].fields["tool_calls"] for one in comparisons] == [[call] for call in calls]
    assert [list(one.prompt.tools) for one in comparisons] == tools


# --- texts as they stand ---------------------------------------------------------------------------

HH = "\n\nHuman: hi\n\nAssistant:"
TEXTS = {"prompt": HH, "chosen": " yes", "rejected": " no"}


def test_raw_texts_stay_as_they_stand(tmp_path):
    path = write(tmp_path / "rows.jsonl", TEXTS, {"chosen": HH + " yes", "rejected": HH + " no"})
    turns, _ = read_comparisons(path).comparisons
    assert [turn.text for turn in turns.prompt.messages] == ["hi"]
    for raw in read_comparisons(path, prompt_format="raw").comparisons:
        assert (raw.prompt, raw.chosen.text) == (Prompt(HH, format="raw"), " yes")
        assert parse(raw.to_json()) == parse(TEXTS | {"prompt_format": "raw"})


def test_what_was_sampled_raw_stays_raw_and_is_not_taken_for_a_turn(tmp_path):
    row = TEXTS | {"prompt_format": "raw"}
    path = write(tmp_path / "rows.jsonl", row)
    (comparison,) = read_comparisons(path).comparisons
    assert comparison.prompt.format == "raw"
    (prompt,) = read_prompts(path).usable
    assert prompt.prompt == comparison.prompt
    assert "prompt_format" not in prompt.columns
    (left_out,) = read_comparisons(path, prompt_format="chat").unusable
    assert left_out.fault_name == "PromptFormatMismatch"
    assert left_out.source == f"{path}:1"


def test_the_format_is_of_texts_alone(tmp_path):
    path = write(tmp_path / "rows.jsonl", ROW)
    (comparison,) = read_comparisons(path, prompt_format="raw").comparisons
    assert comparison == parse_comparison(ROW, where=f"{path}:1")


# --- what is said ----------------------------------------------------------------------------------


def test_what_the_template_leaves_out_is_counted_by_name(tmp_path):
    rows = [ROW | {"chosen": [RAIN | {"content": f"It rains {n}."}]} for n in range(3)]
    result = read_comparisons(write(tmp_path / "rows.jsonl", *rows))
    report = check_comparisons(result, tokenizer_of(HERMES))
    assert report.not_rendered == {
        "field `tool_call_id`": 3,
        "field `name`": 3,
        "field `reasoning_content`": 3,
    }
    assert "field `reasoning_content` is not rendered by the chat template: 3 rows" in report.warnings
    assert report.to_json()["not_rendered"] == report.not_rendered
    assert any("<|im_end|>" in note for note in report.notes)


def test_answers_that_differ_in_what_is_not_rendered_alone_are_the_same_tokens(tmp_path):
    row = ROW | {"rejected": [RAIN | {"reasoning_content": "I looked out."}]}
    result = read_comparisons(write(tmp_path / "rows.jsonl", row))
    assert check_comparisons(result, tokenizer_of(HERMES)).faults == {
        "IdenticalPair": [f"{tmp_path / 'rows.jsonl'}:1"]
    }


def test_how_texts_are_taken_is_said(tmp_path):
    path = write(tmp_path / "rows.jsonl", {"prompt": "a", "chosen": " b", "rejected": " c"})
    chat = check_comparisons(read_comparisons(path), tiny_tokenizer())
    raw = check_comparisons(read_comparisons(path, prompt_format="raw"), tiny_tokenizer())
    assert chat.notes[0] == "1 prompts given as text are one user turn each (--prompt-format chat)"
    assert raw.notes == ["1 prompts given as text are continued as they stand (--prompt-format raw)"]
    assert (chat.lengths["prompt"]["max"], raw.lengths["prompt"]["max"]) == (
        len(tokenisation.encode_prompt(tiny_tokenizer(), Prompt("a"))),
        1,
    )


# --- every turn of the assistant --------------------------------------------------------------------


def masks_by_prefixes(tokenizer, turns, tools):
    """The slow way: of each assistant turn, what is behind the text of all before it, up to its end."""
    found = []
    for number, turn in enumerate(turns):
        if turn["role"] == "assistant":
            render = {"tools": tools, "tokenize": False}
            before = tokenizer.apply_chat_template(turns[:number], add_generation_prompt=True, **render)
            with_turn = tokenizer.apply_chat_template(turns[: number + 1], **render)
            assert with_turn.startswith(before)
            tokens = tokenizer(with_turn.rstrip(), add_special_tokens=False)["input_ids"]
            start = len(tokenizer(before, add_special_tokens=False)["input_ids"])
            found.append((tuple(tokens[:start]), tuple(tokens[start:])))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_turn_carries_loss_where_it_stands_and_nowhere_else(kind):
    tokenizer = tokenizer_of(KINDS[kind])
    thought = SUN | {"reasoning_content": "Clouds are gone.", "thinking": "Clouds are gone."}
    turns = [USER, CALLED, RESULT, thought, USER, RAIN]
    comparison = parse({"tools": TOOLS, "chosen": turns, "rejected": [*turns[:-1], SUN]})
    (pair,) = check_comparisons(one(comparison), tokenizer).usable
    earlier, left_out = encode_earlier_turns(tokenizer, pair, max_length=1024)
    assert left_out == []
    mine = [(turn.prompt_ids, turn.answer_ids) for turn in earlier]
    assert [*mine, (pair.prompt_ids, pair.chosen_ids)] == masks_by_prefixes(tokenizer, turns, TOOLS)


def test_reasoning_that_is_dropped_later_is_learned_where_it_was_written():
    tokenizer = tokenizer_of(REASONING_OF_THE_LAST_TURN)
    turns = [USER, SUN, USER, RAIN]
    comparison = parse({"chosen": turns, "rejected": [*turns[:-1], SUN]})
    (pair,) = check_comparisons(one(comparison), tokenizer).usable
    ((turn,), _) = encode_earlier_turns(tokenizer, pair, max_length=1024)
    assert "I hope so." in tokenizer.decode(turn.answer_ids)
    assert "I hope so." not in tokenizer.decode(pair.prompt_ids)


def test_a_turn_that_cannot_be_learned_is_left_out_by_name_and_place():
    turns = [USER, {"role": "assistant", "content": " "}, USER, SUN, USER, RAIN]
    comparison = parse({"chosen": turns, "rejected": [*turns[:-1], SUN]})
    tokenizer = tokenizer_of(HERMES)
    (pair,) = check_comparisons(one(comparison), tokenizer).usable
    (turn,), (empty,) = encode_earlier_turns(tokenizer, pair, max_length=1024)
    assert tokenizer.decode(turn.answer_ids) == "It shines.<|im_end|>"
    assert (empty.fault_name, empty.source) == ("EmptyAnswer", f"{WHERE}, prompt[1]")
    room = len(turn.prompt_ids) + 2
    (cut,), _ = encode_earlier_turns(tokenizer, pair, max_length=room)
    assert (cut.cut, cut.answer_ids) == (True, turn.answer_ids[:2])
    none, left_out = encode_earlier_turns(tokenizer, pair, max_length=room - 2)
    assert (none, left_out[1].fault_name) == ([], "PromptTooLong")


def one(comparison):
    return ReadResult(comparisons=[comparison], unusable=[])
