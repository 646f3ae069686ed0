"""One person is one annotator, in whatever form the name is written; old stores stay as they are."""

import pytest

from annotate import label_stores
from logratio.annotate.domain.export import make_export
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store
from logratio.cli.annotate import agreement
from logratio.cli.annotate import export as annotate_export
from logratio.cli.annotate.serve import Arguments, announce, check_settings, give_tokens
from logratio.errors import BadConfig

COMPOSED, DECOMPOSED = "Jos\u00e9", "Jose\u0301"


def names_of(place, annotators):
    return check_settings(Arguments(store=place / "labels.db", annotators=annotators, port=0))


def test_names_are_composed_and_have_single_spaces(tmp_path):
    assert names_of(tmp_path, f" {DECOMPOSED} ,anna  b,tie,1,none") == [
        COMPOSED,
        "anna b",
        "tie",
        "1",
        "none",
    ]
    with pytest.raises(BadConfig, match="names somebody twice"):
        names_of(tmp_path, f"{DECOMPOSED},{COMPOSED}")


def test_somebody_whom_an_old_store_knows_in_another_form_is_the_same_person(tmp_path):
    """Whoever judged a pair as one would else be shown it again as the other, and count twice."""
    pairs = label_stores.pairs(3)
    with label_stores.store(tmp_path / "labels.db", pairs, annotators=(DECOMPOSED, "ben")) as store:
        assert label_stores.judge(label_stores.queue(store), DECOMPOSED, lambda pair: "a") == 3
        before = [vote.annotator for vote in store.votes()]
        (name,) = [store.known_as(name) for name in names_of(tmp_path, COMPOSED)]
        assert name == DECOMPOSED
        give_tokens(store, [name])
        assert store.annotators() == sorted(["ben", DECOMPOSED])
        assert label_stores.queue(store).lease(name) is None
        assert [vote.annotator for vote in store.votes()] == before == [DECOMPOSED] * 3


def test_a_name_that_stands_there_as_it_is_given_is_taken(tmp_path):
    with label_stores.store(tmp_path / "labels.db", [], annotators=(DECOMPOSED, COMPOSED)) as store:
        assert store.known_as(COMPOSED) == COMPOSED
        assert store.known_as("new") == "new"


@pytest.fixture
def alike(tmp_path):
    """A store of before, in which one person goes by three names."""
    pairs = label_stores.pairs(3)
    path = tmp_path / "labels.db"
    with label_stores.store(path, pairs, annotators=(DECOMPOSED, COMPOSED, COMPOSED.upper())) as store:
        for name in (DECOMPOSED, COMPOSED, COMPOSED.upper()):
            label_stores.judge(label_stores.queue(store, votes_per_pair=3), name, lambda pair: "a")
    return path


def test_names_that_look_alike_are_said_where_people_begin(alike, capsys):
    with Store.create_or_open(alike) as store:
        announce(store, label_stores.queue(store), Arguments(store=alike), ["ben"], {})
    said = capsys.readouterr().out
    assert "differ only in their Unicode form or white space" in said
    assert said.count("differ only in capitals") == 2


def test_names_that_look_alike_are_said_with_agreement_and_export(alike, tmp_path, capsys):
    with Store.open(alike) as store:
        snapshot = Snapshot.of(store)
    report = agreement.assess(snapshot, seed=0)
    lines = list(agreement.describe(report))
    assert sum("differ only in capitals, and count as two names" in line for line in lines) == 2
    assert annotate_export.run(annotate_export.Arguments(store=alike, out=tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert said.count("note:     ") == 3
    # The files are what they were.
    export = make_export(snapshot, store=alike.name)
    assert (tmp_path / "out" / "votes.jsonl").read_bytes() == export.files["votes.jsonl"]
    names = {vote.annotator for vote in snapshot.log}
    assert names == {DECOMPOSED, COMPOSED, COMPOSED.upper()}
