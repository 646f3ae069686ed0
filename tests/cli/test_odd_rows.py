"""Two hundred odd rows: `check` and every trainer end by themselves, agree, and count each row once."""

from __future__ import annotations

import codecs
import json
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from logratio.cli.main import main
from logratio.models.loading import save
from logratio.report.collect import read_object
from tiny_models import BEGIN, END, tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.slow

NUM_ROWS = 200
SMALL = ["--batch-size", "4", "--threads", "1", "--epochs", "0.02", "--held-out", "0"]
ODD_TEXTS = (
    "",
    " ",
    "\n",
    "\0",
    "a\0b",
    "\ufeffmarked",
    "line\u2028separator",
    "\u202eright to left",
    "e\u0301 and \u00e9",
    "\U0001f469\u200d\U0001f680",
    END,
    f"now {END} then",
    f"{BEGIN}system",
    "\n\nHuman: hi\n\nAssistant:",
    "\n\nHuman: hi\n\nAssistant: good",
    "\n\nAssistant: good",
    "the cat sat on the mat " * 9,
    "the dog ran " * 400,
)
PLAIN = st.builds("{} {}".format, st.sampled_from(["the cat", "a good day", "I hate"]), st.integers(0, 9999))
TEXT = st.one_of(PLAIN, PLAIN, PLAIN, PLAIN, PLAIN, st.sampled_from(ODD_TEXTS), st.text(max_size=12))
OTHER = st.sampled_from([None, 3, 1.5, True, [], {}, ["a"], [None], {"role": "user", "content": "a"}])
CONTENT = st.one_of(
    TEXT,
    TEXT,
    st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2),
    st.just([{"type": "image", "url": "x.png"}]),
    OTHER,
)
CALLS = [{"type": "function", "function": {"name": "look", "arguments": {"at": "the cat"}}}]
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "user", "assistant", "assistant", "system", "tool", "human", "", 3]),
        "content": CONTENT,
    },
    optional={
        "tool_calls": st.sampled_from([CALLS, [], "look", None]),
        "reasoning_content": TEXT,
        "name": TEXT,
    },
)
ASKED = st.builds(lambda content: [{"role": "user", "content": content}], TEXT)
TURNS = st.lists(TURN, max_size=4)
COMPLETION = st.builds(
    lambda text, ids: {"text": text, "token_ids": ids, "finish_reason": "stop"},
    TEXT,
    st.sampled_from([[5, 0], [10**9], [2**70], [-1], [], ["a"], None]),
)
FURTHER = {
    "tie": st.sampled_from([True, False, None, "yes", 1]),
    "chosen_reward": st.sampled_from([0.5, "good", None]),
    "rejected_reward": st.sampled_from([0.25, True]),
    "tools": st.sampled_from([[], None, "look", [CALLS[0]], {}]),
    "prompt_format": st.sampled_from(["chat", "raw", "auto", "html", 3]),
    "judge": TEXT,
    "note": st.one_of(TEXT, OTHER),
    "chosen_completion": COMPLETION,
    "rejected_completion": COMPLETION,
}


def side(name):
    """Texts that are seldom empty, and seldom those of the other side."""
    said = st.builds(f"{name} {{}}".format, TEXT)
    return st.one_of(said, said, said, said, TEXT)


def turn_of(text):
    """The text as one answer of the assistant."""
    return st.builds(lambda content: [{"role": "assistant", "content": content}], text)


def comparison(prompt, chosen, rejected):
    """Rows whose prompts and answers are of these forms, now and then without one of them."""
    whole = {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    sound = st.fixed_dictionaries(whole)
    tied = st.fixed_dictionaries(whole | {"tie": st.just(True)})
    return st.one_of(
        *[sound] * 6,
        tied,
        *[st.fixed_dictionaries(whole | {name: one}) for name, one in FURTHER.items()],
        st.fixed_dictionaries(whole, optional=FURTHER),
        st.fixed_dictionaries({}, optional=whole | FURTHER),
    )


ANY = st.one_of(TURNS, TEXT, OTHER)
ROW = st.one_of(
    *[comparison(TEXT, side("good"), side("bad"))] * 3,
    *[comparison(ASKED, turn_of(side("good")), turn_of(side("bad")))] * 2,
    comparison(ANY, ANY, ANY),
)
BROKEN = st.sampled_from(
    [
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b'{"prompt": "a\0"}',
        codecs.BOM_UTF8 + b'{"prompt": "a"}',
        b'{"prompt": "\\ud83d", "chosen": "a", "rejected": "b"}',
        b'{"prompt": "a", "chosen": 1e999, "rejected": "b"}',
        b'{"prompt": "a", "prompt": "b"}',
        b"",
    ]
)
LINE = st.one_of(*[st.builds(lambda row: json.dumps(row).encode(), ROW)] * 9, BROKEN)


def sound_row(number, text, form):
    """A row that can be used, whatever the text; with it, as messages, or as a tie."""
    row = {"prompt": f"say {number}", "chosen": f"good {text}", "rejected": f"bad {text}"}
    if form == "messages":
        roles = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
        return {name: [{"role": role, "content": row[name]}] for name, role in roles.items()}
    return row | {"tie": True} if form == "tie" else row


SOUND = st.builds(
    lambda *parts: json.dumps(sound_row(*parts)).encode(),
    st.integers(0, 10**6),
    st.text(max_size=30),
    st.sampled_from(["text", "text", "messages", "tie"]),
)


def odd_lines():
    """As many sound lines as others, in turn."""
    pairs = zip(draw_lines(NUM_ROWS // 2, SOUND), draw_lines(NUM_ROWS // 2, LINE), strict=True)
    return [line for pair in pairs for line in pair]


def draw_lines(num, lines):
    """That many lines, the same at every call."""
    found = []

    @settings(
        derandomize=True,
        database=None,
        max_examples=2 * num,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(lines)
    def collect(line):
        found.append(line)

    collect()
    assert len(found) >= num
    return found[:num]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    path = tmp_path_factory.mktemp("start") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return str(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    body = "def length(completions, **columns):\n    return [float(len(one)) for one in completions]\n"
    (tmp_path / "row_rewards.py").write_text(body)
    yield tmp_path
    sys.modules.pop("row_rewards", None)


def call(capsys, *words):
    """The status of a command and all that it printed; a fault of our own fails here."""
    status = main([*map(str, words)])
    shown = "".join(capsys.readouterr())
    assert "a bug in logratio" not in shown, shown
    assert "Traceback" not in shown, shown
    return status, shown


def train(capsys, kind, model, path, out, *further):
    source = ("--prompts", path, "--reward", "row_rewards:length", "--max-new-tokens", "4")
    data = source if kind in ("ppo", "reinforce") else ("--data", path)
    return call(capsys, "train", kind, "--model", model, *data, "--out", out, *SMALL, *further)


def rows_in(lines):
    return sum(bool(line.removeprefix(codecs.BOM_UTF8).strip()) for line in lines)


def assert_adds_up(counts, num_rows):
    assert counts["num_rows"] == num_rows == counts["num_usable"] + sum(counts["unusable"].values())
    assert {name: len(rows) for name, rows in counts["faults"].items()} == counts["unusable"]
    places = [row["where"] for rows in counts["faults"].values() for row in rows]
    assert len(set(places)) == len(places)


def test_what_check_accepts_trains_and_every_row_is_counted_once(place, model, capsys):
    lines = odd_lines()
    path = place / "odd.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + b"\n".join(lines) + b"\n")
    share = ("--max-unusable-share", "1")
    status, shown = call(capsys, "check", "--data", path, "--model", model, "--json", "c.json", *share)
    assert (status, "training can begin" in shown) == (0, True)
    checked = read_object(place / "c.json")
    assert_adds_up(checked, rows_in(lines))
    assert 50 < checked["num_usable"] < 150
    assert len(checked["unusable"]) > 8
    for kind in ("sft", "dpo", "reward", "ppo", "reinforce"):
        status, shown = train(capsys, kind, model, path, kind, *share)
        assert status == 0, (kind, shown)
        counts = read_object(place / kind / "data.json")
        assert_adds_up(counts, rows_in(lines))
        assert counts["train"] + counts["held_out"] == counts["num_usable"]
        if kind == "dpo":
            assert counts["faults"] == checked["faults"]
        if kind == "sft":
            assert counts["num_usable"] == checked["num_usable"] - checked["num_ties"]


@pytest.mark.parametrize("part", range(4))
def test_check_and_training_refuse_the_same_files(place, model, capsys, part):
    lines = odd_lines()[part * 50 : (part + 1) * 50]
    path = place / "odd.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    status, shown = call(capsys, "check", "--data", path, "--model", model)
    trained, told = train(capsys, "dpo", model, path, "run")
    assert (status, trained) in ((0, 0), (1, 2)), (shown, told)
    assert call(capsys, "check", "--data", path, "--model", model, "--strict")[0] == 2


def test_rows_that_are_all_sound_have_nothing_left_out(place, model, capsys):
    sound = [{"prompt": f"say {n}", "chosen": f"good {n}", "rejected": "\0" * (n + 1)} for n in range(12)]
    path = place / "sound.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in sound))
    assert call(capsys, "check", "--data", path, "--model", model, "--strict")[0] == 0
    assert train(capsys, "dpo", model, path, "run", "--strict")[0] == 0
