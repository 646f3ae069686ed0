"""`logratio rate`: from a file or a database of labels to a table, ratings.json and ratings.html."""

from __future__ import annotations

import json
import sqlite3

import pytest

from annotate import label_stores
from logratio.annotate.domain.pairs import make_pair
from logratio.cli.main import COMMANDS, main
from logratio.cli.rate import FILE_WIDTH, Arguments, plain, read_tally, run
from logratio.data.normalised_names import NameForms
from logratio.errors import (
    BadConfig,
    DatabaseBusyOrBroken,
    FileNotReadable,
    NotWritable,
    TooFewLabels,
    UnusableRows,
)
from logratio.recipes import rate_labels
from logratio.recipes.rows import RowConfig
from logratio.records import Completion, Prompt

VOTES = "model_a,model_b,outcome\n" + "".join(
    f"{a},{b},{outcome}\n"
    for a, b, outcome, number in (
        ("sft", "dpo", "model_b", 14),
        ("sft", "dpo", "model_a", 5),
        ("dpo", "ppo", "model_a", 9),
        ("dpo", "ppo", "model_b", 8),
        ("ppo", "sft", "model_a", 11),
        ("ppo", "sft", "model_b", 6),
        ("ppo", "sft", "tie", 3),
        ("dpo", "sft", "tie (bothbad)", 2),
    )
    for _ in range(number)
)
HOSTILE = ("=cmd()|' /C calc'!A0", "\x1b[2J\x1b[31mred\u202etxet", "<script>alert(1)</script>")


@pytest.fixture(autouse=True)
def command(monkeypatch):
    monkeypatch.setitem(COMMANDS, "rate", ("logratio.cli.rate", "strengths of models from comparisons"))


@pytest.fixture
def votes(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text(VOTES)
    return path


def call(path, *words):
    return main(["rate", "--comparisons", str(path), "--bootstrap", "100", *words])


def test_the_table_the_numbers_and_the_page(votes, tmp_path, capsys):
    out = tmp_path / "ratings"
    assert call(votes, "--baseline", "sft", "--out", str(out)) == 0
    shown = capsys.readouterr().out
    assert "3 models, 58 comparisons = 53 decided + 5 ties; ties by davidson, ν = " in shown
    assert "dpo against ppo" in shown
    assert "ppo against sft" in shown
    assert "note: 2 times both answers were called bad; that counts as a tie." in shown
    assert max(len(one) for one in shown.splitlines() if str(out) not in one) <= FILE_WIDTH
    numbers = json.loads((out / "ratings.json").read_text())
    assert [one["model"] for one in numbers["models"]] == ["dpo", "ppo", "sft"]
    for one in numbers["models"]:
        assert f"{one['strength']:+.3f}" in shown
        assert f"{one['interval']['low']:+.3f} to {one['interval']['high']:+.3f}" in shown
        assert f"{one['bootstrap']['low']:+.3f} to {one['bootstrap']['high']:+.3f}" in shown
        assert f"{one['elo']:+.0f}" in shown
    assert [one["second"] for one in numbers["to_baseline"]] == ["sft", "sft"]
    assert numbers["matrix"]["wins"] == [[0, 9, 14], [8, 0, 11], [5, 6, 0]]
    assert numbers["matrix"]["ties"] == [[0, 0, 2], [0, 0, 3], [2, 3, 0]]
    provenance = numbers["provenance"]
    assert provenance["file"] == "votes.csv"
    assert len(provenance["sha256"]) == 64
    page = (out / "ratings.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "Who beat whom" in page


@pytest.mark.parametrize(("ties", "said"), [("rao-kupper", "θ = "), ("half", "a tie is half a win for each")])
def test_ties_as_asked(votes, capsys, ties, said):
    assert call(votes, "--ties", ties) == 0
    assert said in capsys.readouterr().out


def test_without_a_bootstrap_and_without_ties(tmp_path, capsys):
    path = tmp_path / "v.jsonl"
    rows = [{"chosen_model": a, "rejected_model": b} for a, b in ("xy", "yx", "xy")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["rate", "--comparisons", str(path), "--bootstrap", "0"]) == 0
    shown = capsys.readouterr().out
    assert "2 models, 3 comparisons = 3 decided + 0 ties\n" in shown
    assert "not told apart" in shown
    assert sorted(one.name for one in tmp_path.iterdir()) == ["v.jsonl"]


def test_hostile_names_act_neither_in_the_terminal_nor_in_the_page(tmp_path, capsys):
    path = tmp_path / "votes.jsonl"
    rows = [{"winner": a, "loser": b} for a in HOSTILE for b in HOSTILE]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(path, "--out", str(tmp_path / "out"), "--baseline", HOSTILE[0]) == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "⟨U+001B⟩[2J⟨U+001B⟩[31mred⟨U+202E⟩txet" in shown
    assert "3 left out: a model with itself" in shown
    page = (tmp_path / "out" / "ratings.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    numbers = json.loads((tmp_path / "out" / "ratings.json").read_text())
    assert {one["model"] for one in numbers["models"]} == set(HOSTILE)


def test_a_winner_called_a_or_b_is_not_taken_for_a_side(tmp_path, capsys):
    """Three rows of four name A as the winner: once B was said to be the best model."""
    path = tmp_path / "votes.csv"
    path.write_text("model_a,model_b,winner\nB,A,A\nB,A,A\nB,A,A\nB,A,B\n")
    assert call(path) == 2
    error = capsys.readouterr().err
    assert "AmbiguousWinner: winner is 'A': a model's name, and a word for first" in error
    assert f"where: {path}:2" in error
    assert "--winner-column names" in error
    best = {}
    for meaning in ("names", "sides"):
        out = tmp_path / meaning
        assert call(path, "--winner-column", meaning, "--out", str(out)) == 0
        shown = capsys.readouterr().out
        numbers = json.loads((out / "ratings.json").read_text())
        best[meaning] = numbers["models"][0]["model"]
        assert f"note: {numbers['notes'][0]}" in shown
        assert numbers["notes"][0].startswith("The column winner was read as ")
    assert best == {"names": "A", "sides": "B"}


def test_how_names_were_read_is_said(tmp_path, capsys):
    path = tmp_path / "votes.csv"
    path.write_text("winner,loser\nJos\u00e9,x\nx, Jose\u0301\nx,X\nX,x\n", encoding="utf-8")
    assert call(path, "--baseline", "Jose\u0301") == 0
    shown = capsys.readouterr().out
    assert "3 models, 4 comparisons" in shown
    assert "note: 1 times a name was in another Unicode form than NFC" in shown
    assert f"(the first at {path}:3)" in shown
    assert "note: 'X' and 'x' differ only in capitals, and count as two names" in shown
    assert "X against Jos\u00e9" in shown


def test_a_database_has_no_column_of_winners(tmp_path, capsys):
    assert call(tmp_path / "labels.db", "--winner-column", "names") == 2
    assert "--winner-column" in capsys.readouterr().err


def test_faults_end_with_2_and_say_what_where_and_what_to_do(tmp_path, capsys):
    path = tmp_path / "votes.csv"
    path.write_text("winner,loser\na,b\nb,a\nc,d\nd,c\n")
    assert call(path) == 2
    error = capsys.readouterr().err
    assert "TooFewLabels: the models fall into 2 groups that were never compared" in error
    assert "group 1: 'a', 'b'" in error
    assert f"where: {path}" in error
    assert "do:    compare models of different groups" in error
    assert "Traceback" not in error
    path.write_text("winner,loser\na,b\nb\n")
    assert call(path) == 2
    assert f"where: {path}:3" in capsys.readouterr().err


def test_one_model_alone_and_a_missing_file(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("winner,loser\na,a\n")
    with pytest.raises(TooFewLabels, match="one model alone, 'a'") as caught:
        run(Arguments(comparisons=path))
    assert caught.value.where == f"{path}:2"
    path.write_text("winner,loser\n")
    with pytest.raises(TooFewLabels, match="no comparison") as caught:
        run(Arguments(comparisons=path))
    assert caught.value.where == str(path)
    for name in ("none.csv", "none.jsonl", "none.db"):
        with pytest.raises(FileNotReadable):
            run(Arguments(comparisons=tmp_path / name))
    path.write_text("prompt,chosen\np,c\n")
    with pytest.raises(UnusableRows, match="no columns of models"):
        run(Arguments(comparisons=path))


def test_out_is_looked_at_before_anything_is_read(tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.write_text("")
    with pytest.raises(BadConfig, match="--out is a file"):
        run(Arguments(comparisons=tmp_path / "none.csv", out=taken))
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(NotWritable):
        run(Arguments(comparisons=tmp_path / "none.csv", out=tmp_path / "out"))


def test_a_wrong_baseline_names_those_there_are(votes, capsys):
    assert call(votes, "--baseline", "gpt") == 2
    assert "give one of 'dpo', 'ppo', 'sft'" in capsys.readouterr().err


def test_plain():
    assert plain("a\n b\x1b[0m") == "a b⟨U+001B⟩[0m"


# --- the database of labels -------------------------------------------------------------------------


def labelled(path, num_pairs=12, **settings):
    """A store of pairs of two models, each judged by who is asked."""
    pairs = [
        make_pair(
            Prompt(f"question {number}"),
            Completion(text=f"{number} by x"),
            Completion(text=f"{number} by y"),
            models=("x", "y") if number else ("x", "x"),
            margin=float(number),
            source=f"made.jsonl:{number + 1}",
        )
        for number in range(num_pairs)
    ]
    store = label_stores.store(path, pairs)
    return store, label_stores.queue(store, **settings)


def by_number(verdicts):
    """A verdict for each pair, by the number in its question."""
    return lambda pair: verdicts[int(pair.prompt.content.split()[-1])]


def winner(pair, model):
    return "a" if pair.models[0] == model else "b"


def test_verdicts_are_comparisons_of_the_models(tmp_path, capsys):
    path = tmp_path / "labels.db"
    words = ["a", "x", "x", "x", "y", "y", "tie", "bad", "skip", "flag", "x", "y"]

    def choose(pair):
        word = by_number(words)(pair)
        return winner(pair, word) if word in "xy" else word

    store, queue = labelled(path)
    label_stores.judge(queue, "anna", choose)
    with store:
        outcomes, left_out = rate_labels.read_labels(path, NameForms())
        assert left_out == {"skipped": 1, "on flagged pairs": 1}
        tally = read_tally(path, RowConfig())
    assert tally.models == ("x", "y")
    assert tally.units == {((0, 1, False),): 4, ((1, 0, False),): 3, ((0, 1, True),): 2}
    assert tally.both_bad == 1
    assert tally.left_out == {"skipped": 1, "on flagged pairs": 1, "a model with itself": 1}
    assert tally.first_left_out == {"a model with itself": "made.jsonl:1"}
    assert len(outcomes) == 10
    assert call(path, "--out", str(tmp_path / "out")) == 0
    numbers = json.loads((tmp_path / "out" / "ratings.json").read_text())
    assert numbers["provenance"]["sha256"] is None
    assert "9 comparisons = 7 decided + 2 ties" in capsys.readouterr().out


def test_several_verdicts_on_a_pair_are_one_unit(tmp_path):
    path = tmp_path / "labels.db"
    store, queue = labelled(path, votes_per_pair=2)
    label_stores.judge(queue, "anna", lambda pair: winner(pair, "x"))
    label_stores.judge(queue, "ben", lambda pair: winner(pair, "y"))
    store.close()
    tally = read_tally(path, RowConfig())
    assert tally.units == {((0, 1, False), (1, 0, False)): 11}
    assert tally.num_comparisons == 22


def test_a_flag_takes_the_pair_s_other_verdicts_with_it(tmp_path):
    path = tmp_path / "labels.db"
    store, queue = labelled(path, num_pairs=4, votes_per_pair=2)
    label_stores.judge(queue, "anna", lambda pair: winner(pair, "x"))
    label_stores.judge(
        queue, "ben", lambda pair: "flag" if by_number("0012")(pair) == "2" else winner(pair, "y")
    )
    store.close()
    tally = read_tally(path, RowConfig())
    assert tally.left_out["on flagged pairs"] == 2
    assert tally.num_units == 2


def test_repeats_and_gold_do_not_count(tmp_path):
    path = tmp_path / "labels.db"
    store, _ = labelled(path, num_pairs=30)
    store.add_file("gold.jsonl", label_stores.pair_file([label_stores.pair(99, models=("x", "y"), gold="a")]))
    label_stores.judge(
        label_stores.queue(store, repeats=0.3, gold=0.3), "anna", lambda pair: winner(pair, "x")
    )
    kinds = [vote.kind for vote in store.votes()]
    store.close()
    _, left_out = rate_labels.read_labels(path, NameForms())
    assert kinds.count("repeat") > 0
    assert kinds.count("gold") == 1
    assert left_out == {"hidden repeats": kinds.count("repeat"), "on gold pairs": 1}


def test_pairs_that_a_margin_chose_do_not_count(tmp_path):
    path = tmp_path / "labels.db"
    store, queue = labelled(path, num_pairs=60, order="margin", random_slice=0.4)
    label_stores.judge(queue, "anna", lambda pair: winner(pair, "x"))
    chosen = sum(not vote.at_random for vote in store.votes())
    store.close()
    outcomes, left_out = rate_labels.read_labels(path, NameForms())
    assert 10 < chosen < 50
    assert left_out == {"on pairs that were chosen by a margin": chosen}
    assert len(outcomes) == 60 - chosen


def test_labels_without_models_and_no_labels_at_all(tmp_path):
    path = tmp_path / "labels.db"
    store = label_stores.store(path, label_stores.pairs(3))
    with pytest.raises(TooFewLabels, match="no comparison") as caught:
        read_tally(path, RowConfig())
    label_stores.judge(label_stores.queue(store), "anna", lambda pair: "a")
    store.close()
    with pytest.raises(TooFewLabels, match="none of 3 pairs says which models") as caught:
        read_tally(path, RowConfig())
    assert caught.value.where == str(path)
    assert "chosen_model" in caught.value.action


def test_a_database_is_known_by_its_content_and_a_foreign_one_is_refused(tmp_path):
    path = tmp_path / "labels"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(DatabaseBusyOrBroken):
        read_tally(path, RowConfig())
    (tmp_path / "labels.db").write_text("winner,loser\n")
    with pytest.raises(DatabaseBusyOrBroken):
        read_tally(tmp_path / "labels.db", RowConfig())
