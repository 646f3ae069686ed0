"""The label store: what is committed stays, what is wrong with the file has a name, nothing is changed."""

from __future__ import annotations

import ast
import re
import sqlite3
import threading
from pathlib import Path

import pytest

import logratio.annotate
from annotate import label_stores
from logratio.annotate.storage.store import Store
from logratio.errors import (
    BadConfig,
    InputChanged,
)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "labels.db"


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


# --- pairs ---


def test_pairs_come_back_in_order_of_arrival(path):
    content = label_stores.pairs(3, models=("m", "n"))
    with label_stores.store(path, content) as store:
        assert (
            store.add_file(
                "more.jsonl", label_stores.pair_file([content[1], label_stores.pair(7)], sha256="1")
            )
            == 1
        )
        assert [*store.pairs().values()] == [*content, label_stores.pair(7)]
        assert store.pair(content[2].id) == content[2]
        assert store.files() == {"made.jsonl": "0" * 64, "more.jsonl": "1"}
        with pytest.raises(KeyError):
            store.pair("none")


def test_a_file_that_changed_is_refused_unless_it_is_followed(path):
    with label_stores.store(path, label_stores.pairs(2)) as store:
        assert store.add_file("made.jsonl", label_stores.pair_file(label_stores.pairs(2))) == 0
        grown = label_stores.pair_file(label_stores.pairs(3), sha256="1" * 64)
        with pytest.raises(InputChanged, match=r"made\.jsonl"):
            store.add_file("made.jsonl", grown)
        assert len(store.pairs()) == 2
        assert store.add_file("made.jsonl", grown, live=True) == 1
        assert store.files() == {"made.jsonl": "1" * 64}


def test_gold_marks_a_pair_that_stands_already(path):
    with label_stores.store(path, label_stores.pairs(2)) as store:
        assert store.add_file("gold.jsonl", label_stores.pair_file([label_stores.pair(1, gold="b")])) == 0
        assert [pair.gold for pair in store.pairs().values()] == [None, "b"]
        store.add_file("gold2.jsonl", label_stores.pair_file([label_stores.pair(1, gold="a")]))
        assert store.pair(label_stores.pair(1).id).gold == "b"


def test_hostile_text_comes_back_as_it_was(path):
    texts = ("\u202e'; DROP TABLE votes; --\x1b[0m", "x" * 1_000_000)
    with label_stores.store(path, [label_stores.pair(0, texts=texts)]) as store:
        (pair,) = store.pairs().values()
    assert {pair.a.text, pair.b.text} == set(texts)


# --- annotators ---


def test_tokens(path):
    with label_stores.store(path, []) as store:
        anna, ben = store.add_annotator("anna"), store.add_annotator("ben")
        assert (store.annotator_of(anna), store.annotator_of(ben)) == ("anna", "ben")
        assert len(anna) == 43
        assert store.annotators() == ["anna", "ben"]
        anew = store.add_annotator("anna")
        assert store.annotator_of(anna) is None
        assert store.annotator_of(anew) == "anna"
        store.revoke("ben")
        assert store.annotator_of(ben) is None
        assert store.annotators() == ["anna", "ben"]
        for wrong in ("", "x", anew[:-1], anew + "x", "\ud800", "ä" * 43):
            assert store.annotator_of(wrong) is None


def test_tokens_are_not_in_the_file(path):
    with label_stores.store(path, []) as store:
        token = store.add_annotator("anna")
    assert token.encode() not in path.read_bytes()


@pytest.mark.parametrize("name", ["", " ", "anna ", "a\nb", "\x1b[31m", "x" * 65, "\u202eanna"])
def test_names_that_cannot_be_shown_are_refused(path, name):
    with label_stores.store(path, []) as store, pytest.raises(BadConfig):
        store.add_annotator(name)


# --- meta ---


def test_meta(path):
    with label_stores.store(path, []) as store:
        assert store.get_meta("guidelines") is None
        store.set_meta("guidelines", {"sha256": "ab", "reasons": ["wrong", "rüde"]})
        store.set_meta("guidelines", {"sha256": "cd", "reasons": ["wrong", "rüde"]})
    with Store.open(path) as store:
        assert store.get_meta("guidelines") == {"sha256": "cd", "reasons": ["wrong", "rüde"]}


# --- votes ---


def test_what_stands_is_derived_from_the_log(path):
    with label_stores.store(path, label_stores.pairs(3)) as store:
        queue = label_stores.queue(store, order="file")
        for verdict in ("a", "b"):
            fields = {"strength": 2, "reasons": ("x",), "note": "n"}
            queue.vote("anna", label_stores.ballot(queue.lease("anna"), verdict, **fields))
        again = queue.undo("anna", nonce="undo-0000")
        queue.vote("anna", label_stores.ballot(again, "tie", strength=2))
        log = store.log()
        assert [(vote.id, vote.verdict, vote.supersedes) for vote in log] == [
            (1, "a", None),
            (2, "b", None),
            (3, "undo", 2),
            (4, "tie", 3),
        ]
        assert [vote.id for vote in store.votes()] == [1, 4]
        assert store.votes() == [log[0], log[3]]
        assert [vote.strength for vote in log] == [2, 2, None, None]
        assert (log[0].reasons, log[0].note, log[0].milliseconds) == (("x",), "n", 1000)


def test_left_won():
    won = {
        (verdict, swapped): label_stores.vote(1, "p", "anna", verdict, swapped=swapped).left_won
        for verdict in ("a", "b", "tie", "bad", "skip", "flag", "undo")
        for swapped in (False, True)
    }
    assert won.pop(("a", False)) is True
    assert won.pop(("a", True)) is False
    assert won.pop(("b", False)) is False
    assert won.pop(("b", True)) is True
    assert set(won.values()) == {None}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE votes SET verdict = 'b'",
        "DELETE FROM votes",
        "INSERT OR REPLACE INTO votes SELECT * FROM votes",
        "UPDATE pairs SET content = ''",
        "DELETE FROM pairs",
        "INSERT INTO votes SELECT 9, pair_id, annotator, verdict, strength, reasons, note, swapped, kind,"
        " at_random, shown_at, sent_at, milliseconds, nonce, supersedes, 'other' FROM votes",
        "INSERT INTO votes SELECT 9, 'no pair', annotator, verdict, strength, reasons, note, swapped, kind,"
        " at_random, shown_at, sent_at, milliseconds, 'other-nonce', supersedes, 'other' FROM votes",
        "INSERT INTO votes SELECT 9, pair_id, annotator, 'left', strength, reasons, note, swapped, kind,"
        " at_random, shown_at, sent_at, milliseconds, 'other-nonce', supersedes, 'other' FROM votes",
        "INSERT INTO votes SELECT 9, pair_id, annotator, 'tie', 1, reasons, note, swapped, kind,"
        " at_random, shown_at, sent_at, milliseconds, 'other-nonce', supersedes, 'other' FROM votes",
        "INSERT INTO votes SELECT 9, pair_id, annotator, 'undo', strength, reasons, note, swapped, kind,"
        " at_random, shown_at, sent_at, milliseconds, 'other-nonce', NULL, NULL FROM votes",
    ],
)
def test_the_log_takes_only_whole_rows_and_keeps_them(path, statement):
    with label_stores.store(path, label_stores.pairs(1)) as store:
        queue = label_stores.queue(store)
        queue.vote("anna", label_stores.ballot(queue.lease("anna")))
        before = store.log()
        with pytest.raises(sqlite3.IntegrityError), store.transaction() as connection:
            connection.execute(statement)
        assert store.log() == before


def test_a_transaction_that_fails_leaves_nothing(path):
    with label_stores.store(path, []) as store:
        with pytest.raises(RuntimeError), store.transaction() as connection:
            connection.execute("INSERT INTO meta VALUES ('x', '1')")
            raise RuntimeError
        assert store.get_meta("x") is None
        store.set_meta("x", 2)
        assert store.get_meta("x") == 2


def test_threads_share_a_store(path):
    with label_stores.store(path, []) as store:
        failures = []

        def work(name):
            try:
                for number in range(50):
                    store.set_meta(f"{name}-{number}", number)
                    assert store.get_meta(f"{name}-{number}") == number
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


# --- statements ---

SOURCES = sorted(Path(logratio.annotate.__file__).parent.rglob("*.py"))
STATEMENT = re.compile(r"\b(SELECT|INSERT INTO|UPDATE \w+ SET|DELETE FROM|PRAGMA|CREATE TABLE)\b")


def built_texts(tree: ast.AST) -> list[ast.AST]:
    """Texts that are put together while the program runs."""
    found = []
    for node in ast.walk(tree):
        formatted = isinstance(node, ast.Call) and getattr(node.func, "attr", "") in (
            "format",
            "join",
            "replace",
        )
        if isinstance(node, ast.JoinedStr | ast.BinOp) or formatted:
            found.append(node)
    return found


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_statement_is_put_together_from_values(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and "execute" in getattr(node.func, "attr", ""):
            assert node.func.attr != "executescript"
            assert isinstance(node.args[0], ast.Constant | ast.Name), f"{source.name}:{node.lineno}"
            assert not built_texts(node.args[0]), f"{source.name}:{node.lineno}"
    for node in built_texts(tree):
        texts = [part.value for part in ast.walk(node) if isinstance(part, ast.Constant)]
        statements = [text for text in texts if isinstance(text, str) and STATEMENT.search(text)]
        assert not statements, f"{source.name}:{node.lineno}"


def test_the_watch_over_statements_sees_what_it_must():
    for bad in ('f"SELECT {x}"', '"SELECT %s" % x', '"SELECT " + x', '"SELECT {}".format(x)'):
        (node, *_) = built_texts(ast.parse(bad))
        assert any(STATEMENT.search(str(getattr(part, "value", ""))) for part in ast.walk(node))
