from __future__ import annotations

import sys

import pytest

from logratio.errors import MissingExtra
from logratio.records import Completion, Message, Prompt, Sample
from logratio.rollouts import sentiment as module
from logratio.rollouts.rewards import load_reward
from logratio.rollouts.sentiment import sentiment

NAME = "logratio.rollouts.sentiment:sentiment"


@pytest.fixture
def vader():
    return pytest.importorskip("vaderSentiment.vaderSentiment")


def test_scores_are_vaders_own(vader):
    texts = ["I love it, wonderful!", "It is a table.", "Awful, I hate it.", ""]
    analyser = vader.SentimentIntensityAnalyzer()
    expected = [analyser.polarity_scores(text)["compound"] for text in texts]
    scores = sentiment(["p"] * 4, texts)
    assert scores == expected
    assert scores[0] > 0.5
    assert scores[1] == 0.0
    assert scores[2] < -0.5
    assert sentiment(["other"] * 4, texts, topic=["x"] * 4) == scores


@pytest.mark.usefixtures("vader")
def test_messages_score_as_their_text():
    conversation = [{"role": "assistant", "content": "I love it, wonderful!"}]
    assert sentiment([], [conversation]) == sentiment([], ["I love it, wonderful!"])


@pytest.mark.usefixtures("vader")
def test_it_is_found_by_name():
    answers = (Completion(text="Great!"), Completion(text="Terrible."))
    samples = [
        Sample(prompt=Prompt("?"), completions=answers, columns={}),
        Sample(prompt=Prompt((Message(role="user", content="?"),)), completions=answers, columns={}),
    ]
    scores = load_reward(NAME)(samples)
    assert scores[0] == scores[1]
    assert scores[0][0] > 0 > scores[0][1]


def test_without_the_package_the_fault_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "vaderSentiment.vaderSentiment", None)
    module._analyser.cache_clear()
    with pytest.raises(MissingExtra, match="vaderSentiment") as fault:
        sentiment(["p"], ["a"])
    module._analyser.cache_clear()
    assert "pip install 'logratio[demo]'" in fault.value.action
