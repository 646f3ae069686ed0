"""What the tests of the quickstart share."""

from __future__ import annotations

import sys

import pytest

from logratio.models.loading import save
from logratio.recipes.quickstart import evaluation
from logratio.recipes.quickstart import run as quickstart_run
from recipes.quickstart.small_quickstart import MODULE, small_arguments
from tiny_models import tiny_llama, tiny_tokenizer


@pytest.fixture(scope="session")
def quick_model(tmp_path_factory):
    """The directory of a model that a quickstart can begin from."""
    path = tmp_path_factory.mktemp("model") / "tiny"
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer)), tokenizer, path)
    return path


@pytest.fixture
def arguments(tmp_path, monkeypatch, quick_model):
    """Settings of a quickstart that takes seconds."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield small_arguments(tmp_path, quick_model)
    sys.modules.pop(MODULE, None)


@pytest.fixture
def no_evaluation(monkeypatch):
    """Leave out what comes after training, where a test does not look at it."""

    def evaluate(bench, key):
        (bench.settings.out / "evaluation").mkdir()
        return ""

    monkeypatch.setattr(evaluation, "evaluate", evaluate)
    monkeypatch.setattr(quickstart_run, "write_report", lambda bench, ledger: "")
