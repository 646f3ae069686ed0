from __future__ import annotations

import json

import pytest

from annotate.label_snapshots import drawn, fill, pair, snapshot
from logratio.annotate.storage.store import Store
from logratio.cli.annotate.export import Arguments, run
from logratio.data.jsonl import read_judge
from logratio.data.preference_formats import read_comparisons
from logratio.errors import BadConfig, FileNotReadable, TooFewLabels


@pytest.fixture
def labels(tmp_path):
    return fill(tmp_path / "labels.db", drawn())


@pytest.mark.parametrize("form", ["text", "messages"])
def test_files_are_written_and_every_pair_is_accounted_for(labels, tmp_path, capsys, form):
    out = tmp_path / "labels"
    assert run(Arguments(store=labels, out=out, format=form, csv=True)) == 0
    manifest = json.loads((out / "manifest.json").read_text())
    printed = capsys.readouterr().out
    pairs = manifest["pairs"]
    assert pairs["in"] == 252 == pairs["exported"] + sum(pairs["dropped"].values())
    assert pairs["dropped"]["gold"] == 12
    assert f"{pairs['exported']} exported" in printed
    assert "= 252" in printed
    for name in ("comparisons.jsonl", "sft.jsonl"):
        read = read_comparisons(out / name)
        assert len(read.comparisons) == manifest["rows"][name]
        assert read.unusable == []
        assert read_judge(out / name) == "people"
    value = manifest["label_smoothing"]["value"]
    assert 0 < value < 0.1
    assert f"--label-smoothing {value:.3f}" in printed
    assert f"train sft --data {out / 'sft.jsonl'}" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        *("comparisons.jsonl", "manifest.json", "sft.jsonl", "unpaired.jsonl", "votes.csv", "votes.jsonl")
    ]
    assert manifest["store"] == "labels.db"


def test_twice_the_same_store_gives_the_same_files(labels, tmp_path):
    contents = []
    for name in ("one", "two"):
        run(Arguments(store=labels, out=tmp_path / name))
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]


def test_the_log_of_the_store_is_exported_row_for_row(labels, tmp_path):
    run(Arguments(store=labels, out=tmp_path / "out"))
    rows = [json.loads(line) for line in (tmp_path / "out" / "votes.jsonl").read_text().splitlines()]
    with Store.open(labels) as store:
        log = store.log()
        standing = store.votes()
    assert [(row["id"], row["verdict"], row["annotator"]) for row in rows] == [
        (vote.id, vote.verdict, vote.annotator) for vote in log
    ]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["votes"]["log"], manifest["votes"]["standing"]) == (len(log), len(standing))


def test_nothing_decided_writes_nothing(tmp_path):
    store = fill(tmp_path / "labels.db", snapshot([pair(0)], [(0, "anna", "tie")]))
    with pytest.raises(TooFewLabels, match="1 tie"):
        run(Arguments(store=store, out=tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_bad_flags_and_a_missing_store(labels, tmp_path):
    with pytest.raises(BadConfig, match="--min-votes is 0"):
        run(Arguments(store=labels, out=tmp_path / "out", min_votes=0))
    with pytest.raises(BadConfig, match="--out is a file"):
        run(Arguments(store=labels, out=labels))
    with pytest.raises(FileNotReadable):
        run(Arguments(store=tmp_path / "none.db", out=tmp_path / "out"))
