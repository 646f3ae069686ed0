from __future__ import annotations

import json
import subprocess
import sys

import pytest

from logratio.cli.label import Arguments, describe, run
from logratio.cli.main import main
from logratio.data.preference_formats import read_comparisons
from logratio.errors import BadConfig, BadReward, FileNotReadable, RewardDegenerate, TooFewLabels
from logratio.records import Completion, Message, Prompt, Sample
from logratio.rollouts.pair_labelling import label_pairs
from logratio.run_directory import write_json_lines

REWARDS = """
def brevity(completions, **kwargs):
    texts = [one if isinstance(one, str) else one[0]["content"] for one in completions]
    return [-float(len(text)) for text in texts]

def match(completions, wanted, **kwargs):
    return [float(text == one) for text, one in zip(completions, wanted)]

def constant(completions, **kwargs):
    return [0.5] * len(completions)

def of_one(prompts, completions, **kwargs):
    return [float(len(one)) if prompt == "one" else None for prompt, one in zip(prompts, completions)]

def broken(completions, **kwargs):
    return [float("nan")] * len(completions)
"""


def sample(prompt, *texts, **columns):
    answers = tuple(
        Completion(text=text, token_ids=(1, 2, 0), logprobs=(-1.0, -2.0, -0.5), finish_reason="stop", seed=7)
        for text in texts
    )
    return Sample(prompt=prompt, completions=answers, columns=columns)


SAMPLES = [
    sample(Prompt("one"), "long answer", "short", "same", "same", wanted="same"),
    sample(Prompt((Message(role="user", content="two"),)), "yes indeed", "no", wanted="no"),
    sample(Prompt("three"), "tie", "eit", wanted=""),
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "lr_label_rewards", raising=False)
    (tmp_path / "lr_label_rewards.py").write_text(REWARDS)
    write_json_lines(tmp_path / "completions.jsonl", [row.to_json() for row in SAMPLES])
    yield tmp_path
    sys.modules.pop("lr_label_rewards", None)


def arguments(place, reward="brevity", **settings):
    return Arguments(
        completions=place / "completions.jsonl",
        reward=f"lr_label_rewards:{reward}",
        out=place / "out" / "comparisons.jsonl",
        **settings,
    )


def test_labels_are_written_and_counted(place, capsys):
    assert run(arguments(place)) == 0
    rows = [json.loads(line) for line in (place / "out" / "comparisons.jsonl").read_text().splitlines()]
    assert [(row["chosen"], row["rejected"]) for row in rows[:1]] == [("same", "long answer")]
    assert (rows[0]["chosen_reward"], rows[0]["rejected_reward"]) == (-4.0, -11.0)
    assert rows[0]["chosen_completion"]["token_ids"] == [1, 2, 0]
    assert len(rows) == 1 + 1
    out = capsys.readouterr().out
    assert "3 prompts, 8 answers, 3 pairs" in out
    assert "2 labelled + 0 of identical answers + 1 ties + 0 with an empty answer = 3" in out
    assert "labels against the reward: 0 (0.0%); expected 0.0 (0.0%)" in out
    assert "lr_label_rewards:brevity" in out


def test_what_is_written_reads_back_as_what_was_labelled(place):
    run(arguments(place, pairs="all", temperature=2.0, seed=3))
    rewards = [[-11.0, -5.0, -4.0, -4.0], [-10.0, -2.0], [-3.0, -3.0]]
    pairs, counts = label_pairs(SAMPLES, rewards, pairing="all", temperature=2.0, seed=3)
    read = read_comparisons(place / "out" / "comparisons.jsonl").comparisons
    assert counts.labelled == len(read)
    assert counts.identical == 1
    for pair, comparison in zip(pairs, read, strict=True):
        assert comparison.prompt.key == pair.comparison.prompt.key
        assert comparison.chosen == pair.comparison.chosen
        assert comparison.rejected == pair.comparison.rejected


def test_columns_of_the_prompt_reach_the_reward(place):
    place_rows = [SAMPLES[0].to_json()]
    write_json_lines(place / "completions.jsonl", place_rows)
    assert run(arguments(place, reward="match")) == 0
    row = json.loads((place / "out" / "comparisons.jsonl").read_text())
    assert (row["chosen"], row["chosen_reward"], row["rejected_reward"]) == ("same", 1.0, 0.0)


def test_nothing_to_learn_is_a_fault_and_writes_nothing(place):
    with pytest.raises(RewardDegenerate, match="all 8 answers"):
        run(arguments(place, reward="constant"))
    write_json_lines(place / "completions.jsonl", [sample(Prompt("p"), "one answer", "").to_json()])
    with pytest.raises(TooFewLabels, match="1 with an empty answer"):
        run(arguments(place))
    assert not (place / "out").exists()


def test_nothing_finished_says_which_flag_left_it_out(place):
    cut = [Completion(text=text, finish_reason="length") for text in ("one", "another and")]
    row = Sample(prompt=Prompt("p"), completions=tuple(cut), columns={})
    write_json_lines(place / "completions.jsonl", [row.to_json()])
    with pytest.raises(TooFewLabels, match="cut off at the limit") as caught:
        run(arguments(place, finished_only=True))
    assert "--no-finished-only" in caught.value.action


def test_a_bad_reward_names_the_row_and_writes_nothing(place):
    with pytest.raises(BadReward, match=r"completions\.jsonl:1, answer 1"):
        run(arguments(place, reward="broken"))
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("settings", "fault"),
    [({"temperature": -1.0}, BadConfig), ({"pairs": "random", "pairs_per_prompt": 0}, BadConfig)],
)
def test_settings_are_checked_before_anything_is_read(place, settings, fault):
    (place / "completions.jsonl").unlink()
    with pytest.raises(fault):
        run(arguments(place, **settings))


def test_a_missing_file_and_a_file_onto_itself(place):
    same = Arguments(
        completions=place / "completions.jsonl",
        reward="lr_label_rewards:brevity",
        out=place / "completions.jsonl",
    )
    with pytest.raises(BadConfig, match="completions itself"):
        run(same)
    (place / "completions.jsonl").unlink()
    with pytest.raises(FileNotReadable):
        run(arguments(place))


def test_the_command_line_exits_2_with_three_sentences(place, capsys):
    words = [
        "label",
        "--completions",
        "completions.jsonl",
        "--out",
        "o.jsonl",
        "--reward",
        "lr_label_rewards:brevty",
    ]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "BadReward" in error
    assert "brevity" in error
    assert "Traceback" not in error


def test_help_teaches(capsys):
    assert main(["label", "--help"]) == 0
    out = capsys.readouterr().out
    assert "module:function" in out
    assert "--temperature" in out


def test_counts_of_prompts_without_a_pair_are_said():
    _, counts = label_pairs([sample(Prompt("p"), "a")], [[0.0]])
    assert "1 prompts have fewer than two answers" in describe(counts)


def test_labelling_needs_no_torch():
    code = "import sys; import logratio.cli.label; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_answers_without_a_reward_are_left_out_and_counted(place, capsys):
    assert run(arguments(place, "of_one")) == 0
    shown = capsys.readouterr()
    assert "3 prompts, 8 answers, 1 pairs" in shown.out
    assert "4 answers have no reward and were left out" in shown.out
    assert "2 prompts have fewer than two answers" in shown.out
    named = f"lr_label_rewards:of_one has no reward for {place / 'completions.jsonl'}:2, answer 1 (“two”)"
    assert named in shown.err
    assert "and 1 more answers have none" in shown.err
    (row,) = [json.loads(line) for line in (place / "out" / "comparisons.jsonl").read_text().splitlines()]
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("one", "long answer", "same")
