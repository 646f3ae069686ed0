"""`make bench-call-path`: the table in docs/architecture.md is what one update calls today."""

import pytest

from logratio.stats.wilson import percent
from test_architecture import PAGE
from test_benchmark import load_script


@pytest.fixture(scope="module")
def script():
    return load_script("call_path")


def test_the_table_is_what_is_called_today(script):
    paths = {name: script.call_path(train) for name, train in script.TRAINERS.items()}
    table = PAGE.partition(script.BEGIN)[2].partition(script.END)[0].strip()
    assert script.as_markdown(paths) == table, "run make bench-call-path"


def test_an_update_begins_with_its_batch_and_ends_before_it_is_logged(script):
    path = script.call_path(script.dpo)
    assert next(iter(path.items())) == ("training/loop.py", "Session.batch")
    assert {"algorithms/dpo.py", "objectives/dpo.py", "training/optimizer.py"} <= path.keys()
    assert not {"run_directory.py", "progress.py", "training/checkpointing.py"} & path.keys()


def test_nothing_is_noted_outside_of_an_update(script):
    with script.calls_of_one_update() as called:
        percent(0.5, 0)
    assert called == {}
