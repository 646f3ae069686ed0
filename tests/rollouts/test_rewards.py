from __future__ import annotations

import math
import sys

import numpy as np
import pytest

from logratio.errors import BadReward, MissingExtra
from logratio.records import Completion, Message, Prompt, Sample
from logratio.rollouts.rewards import Reward, load_reward


def sample(prompt, *texts, **columns):
    content = prompt if isinstance(prompt, str) else tuple(prompt)
    return Sample(
        prompt=Prompt(content), completions=tuple(Completion(text=text) for text in texts), columns=columns
    )


TWO = [sample("first question", "a", "bb", "ccc", topic="x"), sample("second question", "dddd", topic="y")]


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A directory of modules that is the current one; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


# --- calling ----------------------------------------------------------------------------------------


def test_one_call_with_a_row_for_each_answer_and_columns_repeated():
    calls = []

    def reward(prompts, completions, **kwargs):
        calls.append((prompts, completions, kwargs["topic"]))
        return [len(text) for text in completions]

    assert Reward("r", reward)(TWO) == [[1.0, 2.0, 3.0], [4.0]]
    assert calls == [
        (
            ["first question"] * 3 + ["second question"],
            ["a", "bb", "ccc", "dddd"],
            ["x", "x", "x", "y"],
        )
    ]


def test_message_prompts_come_as_conversations():
    turns = (Message(role="system", content="be brief"), Message(role="user", content="hi"))
    seen = {}

    def reward(**kwargs):
        seen.update(kwargs)
        return [0.5]

    Reward("r", reward)([sample(turns, "hello")])
    assert seen["prompts"] == [[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]]
    assert seen["completions"] == [[{"role": "assistant", "content": "hello"}]]


def test_a_reward_function_written_for_trl_works_unchanged():
    rewards = pytest.importorskip("trl.rewards")
    think = sample([Message(role="user", content="?")], "<think>\nso\n</think>\nyes", "yes")
    assert Reward("think", rewards.think_format_reward)([think]) == [[1.0, 0.0]]
    tokens = Sample(
        prompt=Prompt("?"),
        completions=(
            Completion(text="a", token_ids=(1, 2, 3, 4)),
            Completion(text="b", token_ids=(5, 5, 5, 5, 5)),
        ),
        columns={},
    )
    penalty = rewards.get_repetition_penalty_reward(ngram_size=2, max_penalty=-1.0)
    assert Reward("penalty", penalty)([tokens]) == [[0.0, -0.75]]


def test_completion_ids_are_given_only_where_all_are_known():
    known, unknown = Completion(text="a", token_ids=(7, 0)), Completion(text="b")
    seen = []

    def reward(completions, completion_ids=None, **kwargs):
        seen.append(completion_ids)
        return [0.0] * len(completions)

    Reward("r", reward)([Sample(prompt=Prompt("p"), completions=(known, known), columns={})])
    Reward("r", reward)([Sample(prompt=Prompt("p"), completions=(known, unknown), columns={})])
    assert seen == [[[7, 0], [7, 0]], None]


def test_hooks_of_trl_are_there():
    def reward(completions, trainer_state, log_extra, log_metric, **kwargs):
        log_extra("column", completions)
        log_metric("metric", 1.0)
        return [0.0 if trainer_state is None else 1.0] * len(completions)

    assert Reward("r", reward)(TWO) == [[0.0, 0.0, 0.0], [0.0]]


def test_a_function_without_keywords_gets_what_it_names():
    def reward(completions, topic):
        return [float(name == "x") for name in topic]

    assert Reward("r", reward)(TWO) == [[1.0, 1.0, 1.0], [0.0]]


def test_an_async_function_is_awaited():
    async def reward(completions, **kwargs):
        return [len(text) / 2 for text in completions]

    assert Reward("r", reward)(TWO) == [[0.5, 1.0, 1.5], [2.0]]


def test_a_column_that_a_row_lacks_is_none():
    seen = []

    def reward(completions, topic, **kwargs):
        seen.extend(topic)
        return [0] * len(completions)

    Reward("r", reward)([sample("p", "a"), sample("q", "b", topic="y")])
    assert seen == [None, "y"]


def test_a_column_may_not_take_the_place_of_an_argument():
    with pytest.raises(BadReward, match="completion_ids"):
        Reward("r", lambda **kwargs: [0])([sample("p", "a", completion_ids=[1])])


def test_rewards_are_not_rounded_and_arrays_are_read():
    values = [0.1 + 0.2, 1e-300, -0.0, math.pi]
    assert Reward("r", lambda **kwargs: np.array(values))(TWO) == [values[:3], values[3:]]
    assert Reward("r", lambda **kwargs: [True, np.float32(0.5), np.int64(3), 2])(TWO) == [
        [1.0, 0.5, 3.0],
        [2.0],
    ]


def test_no_answers_no_call():
    def reward(**kwargs):
        raise AssertionError

    assert Reward("r", reward)([]) == []
    assert Reward("r", reward)([sample("p")]) == [[]]


# --- what a function may not return -----------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), "0.5", [1.0], 1j])
def test_what_is_not_a_finite_number_names_its_row(bad):
    with pytest.raises(BadReward) as fault:
        Reward("mine:f", lambda **kwargs: [0.0, 0.0, bad, 0.0])(TWO)
    assert "mine:f" in fault.value.what
    assert repr(bad) in fault.value.what
    assert fault.value.where == "prompt 1, answer 3 (“first question”)"


def test_a_later_prompt_is_named_by_its_own_number():
    with pytest.raises(BadReward) as fault:
        Reward("r", lambda **kwargs: [0.0, 0.0, 0.0, math.nan])(TWO)
    assert fault.value.where == "prompt 2, answer 1 (“second question”)"


@pytest.mark.parametrize(
    ("returned", "said", "where"),
    [
        ([0.0, 0.0], "2 numbers for 4 answers", "prompt 1, answer 3"),
        ([0.0] * 5, "5 numbers for 4 answers", ""),
        (None, "NoneType, not a list", ""),
        (1.0, "float, not a list", ""),
    ],
)
def test_a_wrong_length_says_both_numbers(returned, said, where):
    with pytest.raises(BadReward) as fault:
        Reward("r", lambda **kwargs: returned)(TWO)
    assert said in fault.value.what
    assert where in fault.value.where


def test_a_function_that_raises_is_named_with_its_line_and_its_cause():
    def reward(**kwargs):
        raise KeyError("topic2")

    with pytest.raises(BadReward, match="KeyError: 'topic2'") as fault:
        Reward("r", reward)(TWO)
    assert isinstance(fault.value.__cause__, KeyError)
    assert "test_rewards.py:" in fault.value.where
    assert "prompts 1 to 2 (4 answers)" in fault.value.where


def test_a_fault_of_our_own_passes_through():
    def reward(**kwargs):
        raise MissingExtra("not installed")

    with pytest.raises(MissingExtra):
        Reward("r", reward)(TWO)


# --- finding it -------------------------------------------------------------------------------------


def test_the_current_directory_is_searched(modules):
    (modules / "lr_brevity.py").write_text(
        "def score(completions, **kw):\n    return [-len(c) for c in completions]\n"
    )
    reward = load_reward("lr_brevity:score")
    assert reward.name == "lr_brevity:score"
    assert reward(TWO) == [[-1.0, -2.0, -3.0], [-4.0]]


def test_a_function_within_a_class_and_a_package(modules):
    (modules / "lr_pack").mkdir()
    (modules / "lr_pack" / "__init__.py").write_text("")
    (modules / "lr_pack" / "inner.py").write_text(
        "class Many:\n    @staticmethod\n"
        "    def one(completions, **kw):\n        return [1 for c in completions]\n"
    )
    assert load_reward("lr_pack.inner:Many.one")(TWO) == [[1.0, 1.0, 1.0], [1.0]]


@pytest.mark.parametrize(
    "spec", ["", "module", "module:", ":function", "my_rewards.py:f", "dir/my_rewards:f"]
)
def test_the_form_is_explained(spec):
    with pytest.raises(BadReward) as fault:
        load_reward(spec)
    assert ":" in fault.value.action


def test_a_path_is_told_how_to_be_a_module():
    with pytest.raises(BadReward, match="write my_rewards:score"):
        load_reward("some/my_rewards.py:score")


def test_a_directory_is_refused(tmp_path):
    with pytest.raises(BadReward, match="directory"):
        load_reward(str(tmp_path))


def test_the_nearest_module_is_proposed(modules):
    (modules / "lr_kindness.py").write_text("def score(**kw): ...\n")
    with pytest.raises(BadReward, match="no module 'lr_kindnes'") as fault:
        load_reward("lr_kindnes:score")
    assert "lr_kindness" in fault.value.action
    with pytest.raises(BadReward, match=r"no module 'logratio\.rollouts\.sentimnt'") as fault:
        load_reward("logratio.rollouts.sentimnt:sentiment")
    assert "sentiment" in fault.value.action


def test_a_submodule_of_what_is_no_package(modules):
    (modules / "lr_flat.py").write_text("")
    with pytest.raises(BadReward, match=r"no module 'lr_flat\.inner'"):
        load_reward("lr_flat.inner:score")


def test_the_nearest_function_is_proposed(modules):
    (modules / "lr_names.py").write_text("def politeness(**kw): ...\ndef other(**kw): ...\n")
    with pytest.raises(BadReward, match="no function 'politness'") as fault:
        load_reward("lr_names:politness")
    assert "politeness" in fault.value.action
    assert "lr_names.py" in fault.value.where


def test_what_cannot_be_called_is_refused(modules):
    (modules / "lr_number.py").write_text("score = 3\n")
    with pytest.raises(BadReward, match="is a int"):
        load_reward("lr_number:score")


@pytest.mark.parametrize(
    ("source", "said", "line"),
    [
        ("x = 1\nraise RuntimeError('no key set')\n", "RuntimeError: no key set", "lr_broken.py:2"),
        (
            "import lr_not_there_at_all\n",
            "ModuleNotFoundError: No module named 'lr_not_there_at_all'",
            "lr_broken.py:1",
        ),
        ("x = 1\n\ndef f(:\n", "SyntaxError", "lr_broken.py:3"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3", "lr_broken.py:2"),
    ],
)
def test_a_module_that_fails_on_import_is_named_with_its_error(modules, source, said, line):
    (modules / "lr_broken.py").write_text(source)
    with pytest.raises(BadReward) as fault:
        load_reward("lr_broken:score")
    assert said in fault.value.what
    assert line in fault.value.where
    assert fault.value.__cause__ is not None
