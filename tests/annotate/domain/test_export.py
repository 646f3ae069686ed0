"""What people said, and only that, becomes a label; everything is accounted for."""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.label_snapshots import CONVERSATION, drawn, pair, snapshot
from logratio.annotate.domain.export import escape_cell, make_export, write_export
from logratio.annotate.domain.vote_aggregation import decide, ensure_decided
from logratio.annotate.storage.store import Vote
from logratio.data.preference_formats import read_comparisons
from logratio.errors import BadConfig, DiskFull, NotWritable, TooFewLabels, UndecidedAsLabel
from logratio.records import Completion


def rows(export, name):
    return [json.loads(line) for line in export.files[name].decode().split("\n") if line]


def labels_of(export):
    """Pair of texts → which was chosen."""
    return {
        frozenset((row["chosen"], row["rejected"])): row["chosen"]
        for row in rows(export, "comparisons.jsonl")
    }


# --- which pairs become labels -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ("a", "a"),
        ("b", "b"),
        ("aab", "a"),
        ("bba", "b"),
        ("aat", "a"),
        ("as", "a"),
        ("t", "tie"),
        ("tta", "tie"),
        ("x", "both bad"),
        ("xxb", "both bad"),
        ("ab", "contradictory"),
        ("aabbt", "contradictory"),
        ("aabt", "contradictory"),
        ("at", "undecided"),
        ("bx", "undecided"),
        ("tx", "undecided"),
        ("s", "skip"),
        ("ss", "skip"),
        ("f", "flag"),
        ("aaaf", "flag"),
        ("", "not judged"),
    ],
)
def test_a_label_is_what_more_than_half_say(verdicts, expected):
    names = {"t": "tie", "x": "bad", "s": "skip", "f": "flag"}
    votes = [
        Vote(id=number, pair_id="p", annotator=str(number), verdict=names.get(letter, letter))
        for number, letter in enumerate(verdicts)
    ]
    decision = decide(pair(), votes, min_votes=1)
    assert (decision.chosen or decision.reason) == expected
    if decision.chosen is None:
        with pytest.raises(UndecidedAsLabel, match="about to be written"):
            ensure_decided(decision, votes)
    else:
        ensure_decided(decision, votes)


def test_the_last_guard_does_not_trust_the_decision():
    one = pair()
    votes = [Vote(id=1, pair_id=one.id, annotator="anna", verdict="a")]
    right = decide(one, votes, min_votes=1)
    for wrong in (
        [Vote(id=1, pair_id=one.id, annotator="anna", verdict="b")],
        [*votes, Vote(id=2, pair_id=one.id, annotator="ben", verdict="flag")],
        [*votes, Vote(id=2, pair_id=one.id, annotator="ben", verdict="tie")],
        [],
    ):
        with pytest.raises(UndecidedAsLabel) as caught:
            ensure_decided(right, wrong)
        assert one.id in caught.value.where


def test_gold_repeats_and_gold_presentations_are_no_labels():
    pairs = [pair(0), pair(1, gold="a"), pair(2)]
    made = snapshot(
        pairs,
        [
            (0, "anna", "a"),
            (0, "anna", "b", {"kind": "repeat"}),
            (0, "anna", "b", {"kind": "repeat"}),
            (1, "anna", "a", {"kind": "gold"}),
            (1, "ben", "a"),
            (2, "anna", "a", {"kind": "repeat"}),
        ],
    )
    export = make_export(made)
    assert labels_of(export) == {frozenset((pairs[0].a.text, pairs[0].b.text)): pairs[0].a.text}
    assert export.manifest["pairs"] == {"in": 3, "exported": 1, "dropped": {"gold": 1, "not judged": 1}}
    assert export.manifest["votes"]["not_counted"] == {"repeat": 3, "gold": 1}
    assert export.manifest["votes"]["counted"] == 2


def test_what_was_undone_or_replaced_does_not_count():
    made = snapshot(
        [pair(0), pair(1)],
        [
            (0, "anna", "a"),
            (0, "anna", "undo", {"supersedes": 1}),
            (0, "anna", "b"),
            (1, "anna", "tie"),
            (1, "anna", "a", {"supersedes": 4}),
        ],
    )
    export = make_export(made)
    assert sorted(row["chosen"] for row in rows(export, "comparisons.jsonl")) == [
        "a longer answer 1",
        "brief 0",
    ]
    assert export.manifest["votes"] == {
        **{"log": 5, "standing": 2, "withdrawn": 2, "undo": 1, "counted": 2},
        "not_counted": {"repeat": 0, "gold": 0},
    }


def test_a_minimum_of_verdicts():
    made = snapshot(
        [pair(0), pair(1)], [(0, "anna", "a"), (0, "ben", "a"), (1, "anna", "b"), (1, "ben", "skip")]
    )
    export = make_export(made, min_votes=2)
    assert export.manifest["pairs"]["dropped"] == {"too few verdicts": 1}
    with pytest.raises(TooFewLabels, match="2 too few verdicts") as caught:
        make_export(made, min_votes=3)
    assert "--min-votes" in caught.value.action


def test_nothing_decided_is_refused_with_the_reasons():
    made = snapshot(
        [pair(0), pair(1), pair(2)], [(0, "anna", "tie"), (1, "anna", "skip"), (2, "anna", "flag")]
    )
    with pytest.raises(TooFewLabels, match="of 3 pairs not one was decided: 1 flag, 1 skip, 1 tie"):
        make_export(made)
    with pytest.raises(TooFewLabels, match="of 0 pairs not one was decided\n"):
        make_export(snapshot([], []))


# --- the files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["text", "messages"])
def test_comparisons_and_preferred_answers_are_read_by_the_trainers(tmp_path, form):
    pairs = [pair(0, tokens=True), pair(1, prompt=CONVERSATION), pair(2, models=("m", "n"))]
    made = snapshot(pairs, [(0, "anna", "a"), (1, "anna", "b"), (2, "anna", "b")])
    write_export(make_export(made, form=form), tmp_path / "out")
    for name in ("comparisons.jsonl", "sft.jsonl"):
        result = read_comparisons(tmp_path / "out" / name)
        assert result.unusable == []
        for comparison, one, chosen in zip(result.comparisons, pairs, "abb", strict=True):
            assert comparison.prompt.key == one.prompt.key
            assert comparison.chosen.text == getattr(one, chosen).text
            assert {comparison.chosen.text, comparison.rejected.text} == {one.a.text, one.b.text}
    first = result.comparisons[0]
    assert first.chosen.token_ids == ((1, 2, 3, 0) if form == "text" else None)


def test_messages_have_the_shape_that_other_trainers_read():
    made = snapshot([pair(0), pair(1, prompt=CONVERSATION)], [(0, "anna", "b"), (1, "anna", "a")])
    export = make_export(made, form="messages")
    for row in rows(export, "comparisons.jsonl"):
        assert [turn["role"] for turn in row["prompt"]][-1] == "user"
        for side in ("chosen", "rejected"):
            ((role, content),) = [(turn["role"], turn["content"]) for turn in row[side]]
            assert role == "assistant"
            assert content.endswith(("0", "1"))
    assert rows(export, "sft.jsonl")[0]["completion"] == [{"role": "assistant", "content": "brief 0"}]
    assert rows(export, "unpaired.jsonl")[1]["completion"] == [
        {"role": "assistant", "content": "a longer answer 0"}
    ]


def test_an_answer_that_wins_twice_is_trained_on_once():
    pairs = [pair(0, b="b1"), pair(0, b="b2"), pair(1)]
    export = make_export(snapshot(pairs, [(0, "anna", "a"), (1, "anna", "a"), (2, "anna", "a")]))
    assert [row["completion"] for row in rows(export, "sft.jsonl")] == [
        "a longer answer 0",
        "a longer answer 1",
    ]
    counts = export.manifest["rows"]
    assert (counts["comparisons.jsonl"], counts["sft.jsonl"], counts["preferred_again"]) == (3, 2, 1)


def test_unpaired_answers_have_one_label_or_none():
    # The middle answer wins one pair and loses another; both answers of a bad pair are bad.
    pairs = [pair(0, a="best", b="middle"), pair(0, a="middle", b="worst"), pair(1, a="bad 1", b="bad 2")]
    export = make_export(snapshot(pairs, [(0, "anna", "a"), (1, "anna", "a"), (2, "anna", "bad")]))
    found = {row["completion"]: row["label"] for row in rows(export, "unpaired.jsonl")}
    assert found == {"best": True, "worst": False, "bad 1": False, "bad 2": False}
    counts = export.manifest["rows"]
    assert (counts["unpaired.jsonl"], counts["answers"], counts["answers_won_and_lost"]) == (4, 5, 1)


def test_the_raw_log_has_every_row_with_side_models_and_texts():
    one = pair(0, models=("small", "large"))
    made = snapshot(
        [one],
        [
            (
                0,
                "anna",
                "a",
                {"swapped": True, "strength": 3, "reasons": ("rude",), "note": "hm", "sent_at": 5.5},
            ),
            (0, "anna", "undo", {"supersedes": 1}),
            (0, "anna", "b", {"swapped": True, "milliseconds": 1200}),
        ],
    )
    first, undo, last = rows(make_export(made), "votes.jsonl")
    assert (first["left"], first["left_won"], first["strength"], first["reasons"]) == (
        "b",
        False,
        3,
        ["rude"],
    )
    assert (first["note"], first["sent_at"], first["nonce"]) == ("hm", 5.5, "nonce0001")
    assert (undo["verdict"], undo["supersedes"], undo["left_won"]) == ("undo", 1, None)
    assert (last["left_won"], last["milliseconds"]) == (True, 1200)
    assert (last["a"], last["b"], last["a_model"], last["b_model"]) == (
        one.a.text,
        one.b.text,
        "small",
        "large",
    )
    assert last["prompt"] == "question 0"


def test_models_stand_beside_the_label_they_belong_to():
    made = snapshot([pair(0, models=("small", "large")), pair(1)], [(0, "anna", "b"), (1, "anna", "a")])
    named, unnamed = rows(make_export(made), "comparisons.jsonl")
    assert (named["chosen_model"], named["rejected_model"]) == ("large", "small")
    assert "chosen_model" not in unnamed
    assert (named["votes_chosen"], named["votes_rejected"], named["judge"]) == (1, 0, "people")


def test_a_row_that_could_not_be_read_back_is_left_out_by_its_fault():
    same = pair(0, a="the same", b="the same ")
    tokens = Completion(text="x", token_ids=(1,), logprobs=(-1.0, -2.0))
    odd = type(same).from_json(
        pair(1).to_json() | {"a": tokens.to_json(), "b": tokens.to_json() | {"text": "y"}}
    )
    made = snapshot([same, odd, pair(2)], [(0, "anna", "a"), (1, "anna", "a"), (2, "anna", "a")])
    assert make_export(made).manifest["pairs"]["dropped"] == {"IdenticalPair": 1, "WrongType": 1}


# --- the manifest ------------------------------------------------------------------------------------


def test_hashes_are_those_of_the_files(tmp_path):
    export = make_export(drawn(60), table=True, store="labels.db")
    write_export(export, tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert manifest == export.manifest
    assert set(manifest["files"]) == {path.name for path in tmp_path.iterdir()} - {"manifest.json"}
    for name, found in manifest["files"].items():
        content = (tmp_path / name).read_bytes()
        assert found == {"sha256": hash_of(content), "num_bytes": len(content)}
    assert manifest["inputs"] == [{"name": "made.jsonl", "sha256": "0" * 64}]
    assert manifest["store"] == "labels.db"


def test_the_smoothing_is_suggested_from_measured_disagreement():
    # Ten of forty pairs contradictory: d = 1/4, e = (1 − √½) / 2. The thirty labels have two verdicts each.
    pairs = [pair(number) for number in range(40)]
    verdicts = [(place, name, "a") for place in range(40) for name in ("anna", "ben")]
    for place in range(10):
        verdicts[2 * place] = (place, "anna", "b")
    found = make_export(snapshot(pairs, verdicts)).manifest["label_smoothing"]
    error = (1 - 0.5**0.5) / 2
    assert found["disagreement"]["value"] == 0.25
    assert found["verdict_error"] == pytest.approx(error)
    assert found["value"] == pytest.approx(error**2 / (error**2 + (1 - error) ** 2))


def test_no_smoothing_is_suggested_under_twenty_overlaps():
    pairs = [pair(number) for number in range(30)]
    verdicts = [(place, "anna", "a") for place in range(30)] + [(place, "ben", "b") for place in range(19)]
    found = make_export(snapshot(pairs, verdicts)).manifest["label_smoothing"]
    assert found["value"] is None
    assert "19 pairs were decided by two people; 20 are needed" in found["reason"]


def test_disagreement_is_measured_on_pairs_in_random_order_alone():
    pairs = [pair(number) for number in range(50)]
    picked = {"at_random": False}
    verdicts = [(place, name, "a") for place in range(25) for name in ("anna", "ben")]
    verdicts += [(place, "anna", "a", picked) for place in range(25, 50)]
    verdicts += [(place, "ben", "b", picked) for place in range(25, 50)]
    found = make_export(snapshot(pairs, verdicts)).manifest
    assert found["label_smoothing"]["disagreement"]["total"] == 25
    assert found["label_smoothing"]["value"] == 0.0
    assert found["pairs"]["exported"] == 25


# --- whatever the log --------------------------------------------------------------------------------

POOL = [
    pair(0),
    pair(1, models=("m", "n")),
    pair(2, gold="tie"),
    pair(3, gold="b"),
    pair(0, a="a longer answer 0", b="other"),
    pair(4, prompt=CONVERSATION),
    pair(5, a="=1+1", b="\u202e\x1b[31m"),
    pair(6, a="the same", b="the same\n"),
    pair(7, tokens=True),
]
events = st.tuples(
    st.integers(0, len(POOL) - 1),
    st.sampled_from(["anna", "ben", "eva", "=cmd()"]),
    st.sampled_from(["a", "b", "tie", "bad", "skip", "flag", "undo"]),
    st.sampled_from(["first", "first", "first", "repeat", "gold"]),
    st.booleans(),
    st.one_of(st.none(), st.integers(1, 40)),
)


def log_of(drawn_events):
    """A log as a store may hold it, and worse: anything may replace or take back anything earlier, once."""
    verdicts, gone = [], set()
    for number, (place, annotator, verdict, kind, swapped, target) in enumerate(drawn_events, start=1):
        supersedes = target if target is not None and target < number and target not in gone else None
        if verdict == "undo" and supersedes is None:
            verdict = "skip"
        gone |= {supersedes}
        verdicts.append(
            (place, annotator, verdict, {"kind": kind, "swapped": swapped, "supersedes": supersedes})
        )
    return snapshot(POOL, verdicts)


@settings(max_examples=400, deadline=None)
@given(st.lists(events, max_size=40), st.integers(1, 3), st.sampled_from(["text", "messages"]))
def test_no_undecided_pair_is_exported_and_the_numbers_add_up(drawn_events, min_votes, form):
    made = log_of(drawn_events)
    try:
        export = make_export(made, form=form, min_votes=min_votes, table=True)
    except TooFewLabels:
        return
    check_labels(export, made, form)
    check_sums(export, made)


def check_labels(export, made, form):
    """Every exported label is what most people said of its pair, counted here in another way."""

    def text(value):
        return value if form == "text" else value[0]["content"]

    superseded = {vote.supersedes for vote in made.log}
    for row in rows(export, "comparisons.jsonl"):
        chosen, rejected = text(row["chosen"]), text(row["rejected"])
        (one,) = [p for p in POOL if {p.a.text, p.b.text} == {chosen, rejected}]
        said = Counter(
            v.verdict
            for v in made.log
            if v.pair_id == one.id and v.kind == "first" and v.id not in superseded and v.verdict != "undo"
        )
        side, other = ("a", "b") if chosen == one.a.text else ("b", "a")
        assert one.gold is None
        assert said["flag"] == 0
        assert said[side] > said[other] + said["tie"] + said["bad"]
        assert (row["votes_chosen"], row["votes_rejected"]) == (said[side], said[other])
    preferred = {json.dumps(row["completion"]) for row in rows(export, "sft.jsonl")}
    assert preferred == {json.dumps(row["chosen"]) for row in rows(export, "comparisons.jsonl")}
    for row in rows(export, "unpaired.jsonl"):
        assert not row["label"] or json.dumps(row["completion"]) in preferred


def check_sums(export, made):
    manifest = export.manifest
    pairs, votes, counts = manifest["pairs"], manifest["votes"], manifest["rows"]
    assert pairs["in"] == len(POOL) == pairs["exported"] + sum(pairs["dropped"].values())
    assert votes["log"] == len(made.log) == votes["standing"] + votes["withdrawn"] + votes["undo"]
    assert votes["standing"] == votes["counted"] + sum(votes["not_counted"].values())
    for name in ("comparisons.jsonl", "sft.jsonl", "unpaired.jsonl", "votes.jsonl"):
        assert counts[name] == len(rows(export, name))
    assert counts["comparisons.jsonl"] == pairs["exported"] == counts["sft.jsonl"] + counts["preferred_again"]
    assert counts["answers"] == counts["unpaired.jsonl"] + counts["answers_won_and_lost"]


# --- the table ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝cmd", "\n-2"])
def test_formulas_are_escaped(cell):
    assert escape_cell(cell) == "'" + cell


@pytest.mark.parametrize("cell", ["plain", "a=b", "", -3, 1.5, None, "'=1"])
def test_other_cells_are_not(cell):
    assert escape_cell(cell) == cell


def test_no_cell_of_the_table_is_a_formula_and_numbers_stay_numbers():
    hostile = pair(0, a='=HYPERLINK("http://evil.example","x")', b='line\nbreak, and "quotes"')
    made = snapshot([hostile], [(0, "@anna", "a", {"note": "-2+3", "reasons": ("=x",), "milliseconds": 12})])
    export = make_export(made, table=True)
    header, row = csv.reader(io.StringIO(export.files["votes.csv"].decode(), newline=""))
    found = dict(zip(header, row, strict=True))
    assert found["a"] == "'" + hostile.a.text
    assert found["b"] == hostile.b.text
    assert (found["annotator"], found["note"], found["reasons"]) == ("'@anna", "'-2+3", '["=x"]')
    assert (found["milliseconds"], found["left_won"], found["strength"]) == ("12", "true", "")


# --- writing -----------------------------------------------------------------------------------------


def test_all_files_or_none(tmp_path, monkeypatch):
    write_export(make_export(drawn(40)), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls = []

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("logratio.annotate.domain.export.os.fsync", full)
    with pytest.raises(DiskFull):
        write_export(make_export(drawn(40, seed=2)), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


EXPORT_FOREVER = """
import sys, itertools
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from annotate.label_snapshots import drawn
from logratio.annotate.domain.export import make_export, write_export
exports = [make_export(drawn(300, seed=seed)) for seed in (1, 2)]
for export in itertools.cycle(exports):
    write_export(export, Path(sys.argv[1]))
    print("written", flush=True)
"""


def test_killed_at_any_moment_it_leaves_whole_files(tmp_path):
    """Each file is that of one export or of the other, and the hashes tell which are not the manifest's."""
    exports = [make_export(drawn(300, seed=seed)) for seed in (1, 2)]
    tests = str(Path(__file__).parents[2])
    moments = random.Random(0)
    for _ in range(8):
        command = [sys.executable, "-c", EXPORT_FOREVER, str(tmp_path / "out"), tests]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout.readline() == b"written\n"
            time.sleep(moments.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
            child.communicate()
        found = {name: (tmp_path / "out" / name).read_bytes() for name in exports[0].files}
        for name, content in found.items():
            assert content in [export.files[name] for export in exports]
        (of,) = [export for export in exports if export.files["manifest.json"] == found["manifest.json"]]
        told = {name for name, one in of.manifest["files"].items() if hash_of(found[name]) != one["sha256"]}
        assert told == {name for name in of.manifest["files"] if of.files[name] != found[name]}


def hash_of(content):
    return hashlib.sha256(content).hexdigest()


def test_the_manifest_takes_its_place_last(tmp_path, monkeypatch):
    import logratio.run_directory

    moved = []
    replace = logratio.run_directory.os.replace
    monkeypatch.setattr(
        "logratio.run_directory.os.replace",
        lambda source, target: (moved.append(target.name), replace(source, target)),
    )
    write_export(make_export(drawn(30), table=True), tmp_path)
    assert len(moved) == 6
    assert moved[-1] == "manifest.json"


def test_a_second_export_leaves_no_table_of_the_first(tmp_path):
    write_export(make_export(drawn(30), table=True), tmp_path)
    (tmp_path / "labels.db").write_text("not ours")
    write_export(make_export(drawn(30)), tmp_path)
    assert not (tmp_path / "votes.csv").exists()
    assert (tmp_path / "labels.db").read_text() == "not ours"


def test_a_file_or_a_closed_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(BadConfig, match="--out is a file"):
        write_export(make_export(drawn(30)), tmp_path / "file")
    with pytest.raises(NotWritable):
        write_export(make_export(drawn(30)), tmp_path / "file" / "below")
