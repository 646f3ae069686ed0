from __future__ import annotations

import json

import pytest

from annotate.label_snapshots import drawn, fill, pair, snapshot
from logratio.annotate.domain.pairs import PairFile
from logratio.annotate.storage.store import Store
from logratio.cli.annotate.agreement import Arguments, run
from logratio.errors import DatabaseBusyOrBroken, FileNotReadable, TooFewLabels


@pytest.fixture
def labels(tmp_path):
    return fill(tmp_path / "labels.db", drawn())


def test_it_prints_tables_and_writes_numbers_and_page(labels, tmp_path, capsys):
    numbers, page = tmp_path / "out" / "agreement.json", tmp_path / "out" / "agreement.html"
    assert run(Arguments(store=labels, json=numbers, html=page)) == 0
    out = capsys.readouterr().out
    report = json.loads(numbers.read_text())
    alpha = report["agreement"]["alpha"]
    assert f"alpha  {alpha['value']:.2f} ({alpha['low']:.2f} to {alpha['high']:.2f})" in out
    assert f"{report['num_used']} in the agreement + {report['left_out']['bad']} bad" in out
    assert report["num_used"] + sum(report["left_out"].values()) == report["num_verdicts"]
    for name in ("anna, ben", "anna, eva", "ben, eva", "everybody", "Cohen's kappa", "for the longer"):
        assert name in out
    assert str(numbers) in out
    assert str(page) in out
    assert "<style>" in page.read_text()
    assert f"{alpha['value']:.2f}" in page.read_text()


def test_the_seed_moves_the_interval_and_not_the_value(labels, tmp_path):
    found = []
    for seed in (0, 0, 1):
        run(Arguments(store=labels, json=tmp_path / "agreement.json", seed=seed))
        found.append(json.loads((tmp_path / "agreement.json").read_text())["agreement"]["alpha"])
    assert found[0] == found[1]
    assert found[0]["value"] == found[2]["value"]
    assert found[0]["low"] != found[2]["low"]


def test_too_few_overlaps_are_refused_after_all_else_was_told(tmp_path, capsys):
    store = fill(tmp_path / "labels.db", drawn(80, people=("anna",)))
    numbers, page = tmp_path / "agreement.json", tmp_path / "agreement.html"
    with pytest.raises(TooFewLabels, match="there are 0") as caught:
        run(Arguments(store=store, json=numbers, html=page))
    assert caught.value.where == str(store)
    assert caught.value.exit_status == 2
    out = capsys.readouterr().out
    assert "for the left" in out
    assert "alpha" not in out
    report = json.loads(numbers.read_text())
    assert report["agreement"] is None
    assert "there are 0" in report["refused"]
    assert "Agreement is not stated yet" in page.read_text()


def test_names_cannot_draw_on_the_terminal(tmp_path, capsys):
    made = snapshot([pair(0)], [(0, "[bold]anna[/bold]", "a")])
    with pytest.raises(TooFewLabels):
        run(Arguments(store=fill(tmp_path / "labels.db", made)))
    assert "[bold]anna[/bold]" in capsys.readouterr().out


def test_a_store_without_a_verdict(tmp_path, capsys):
    with Store.create_or_open(tmp_path / "labels.db") as store:
        store.add_file("a.jsonl", PairFile(pairs=[pair(0)], sha256="0" * 64))
    with pytest.raises(TooFewLabels):
        run(Arguments(store=tmp_path / "labels.db"))
    assert "0 verdicts by 0 people on 1 pairs" in capsys.readouterr().out


def test_no_store_and_no_database_are_named(tmp_path):
    with pytest.raises(FileNotReadable):
        run(Arguments(store=tmp_path / "none.db"))
    (tmp_path / "text.db").write_text("this is no database, and long enough to be looked at" * 40)
    with pytest.raises(DatabaseBusyOrBroken):
        run(Arguments(store=tmp_path / "text.db"))
