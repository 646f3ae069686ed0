"""The page that says where each step of a trainer is names functions that are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`([\w/]+\.py):([\w.]+)`", PAGE)))
WORDS = (
    "micro-batch",
    "gradient accumulation",
    "prefill",
    "KV cache",
    "invariant",
    "rollout",
    "importance sampling",
    "masked mean",
    "chat template",
    "checkpoint",
)


@pytest.mark.parametrize(("path", "name"), NAMED, ids=[f"{path}:{name}" for path, name in NAMED])
def test_what_the_page_names_exists(path, name):
    node = ast.parse((ROOT / "src" / "logratio" / path).read_text(encoding="utf-8"))
    for part in name.split("."):
        inner = {
            child.name: child
            for child in node.body
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        }
        assert part in inner, f"{path} has no {name}"
        node = inner[part]


def test_the_page_has_each_trainer():
    trainers = {"train_sft", "train_dpo", "train_reward", "train_ppo", "train_reinforce"}
    assert trainers <= {name for _, name in NAMED}


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize(("folder", "ending"), [("src", "*.py"), ("docs", "*.md")])
def test_a_search_for_a_word_of_the_field_finds_it(word, folder, ending):
    texts = (path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob(ending))
    assert any(word.lower() in text.lower() for text in texts)
