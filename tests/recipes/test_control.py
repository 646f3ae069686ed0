"""`logratio control`: one run, several runs, going on, and what is refused."""

import json
import re
import sys
from functools import partial
from statistics import fmean, pstdev

import gymnasium
import pytest

from logratio.cli.main import main
from logratio.control.evaluation import EVALUATION_SEED
from logratio.control.policy_files import load_policy
from logratio.control.presets import PRESETS, find_preset
from logratio.errors import BadConfig
from logratio.recipes import control as control_command
from logratio.recipes.control_config import ControlPPOConfig, ControlReinforceConfig
from logratio.run_directory import hash_file, read_json_lines
from scripted_environments import Counting, Faulty, Puzzling

FEW = ["--steps", "1500", "--num-steps", "50", "--update-epochs", "2", "--evaluation-episodes", "4"]


def control(*words, trainer="ppo"):
    return main(["control", trainer, *map(str, words)])


def read(path):
    return json.loads(path.read_text())


@pytest.fixture
def registered():
    """Registers an environment for a test, under the name Made-v0."""
    yield lambda build: gymnasium.register("Made-v0", entry_point=build)
    gymnasium.registry.pop("Made-v0", None)


@pytest.mark.parametrize("trainer", ["ppo", "reinforce"])
def test_a_run_is_judged_and_reported(tmp_path, capsys, trainer):
    out = tmp_path / "run"
    flags = [word for word in FEW if trainer == "ppo" or word not in ("--update-epochs", "2")]
    assert control("--env", "CartPole-v1", "--out", out, "--seed", 3, *flags, trainer=trainer) == 0
    report = read(out / "report.json")
    judged = report["evaluation"]
    assert judged["episodes"] == len(judged["deterministic"]["returns"]) == 4
    assert judged["mean_return"] == pytest.approx(fmean(judged["deterministic"]["returns"]))
    assert judged["std_return"] == pytest.approx(pstdev(judged["deterministic"]["returns"]))
    assert judged["stochastic"]["returns"] != judged["deterministic"]["returns"]
    assert report["environment"] == "CartPole-v1"
    assert report["seed"] == 3
    assert "CartPole-v1" in (out / "report.html").read_text()
    assert "No evaluation" not in (out / "report.html").read_text()
    rows = read_json_lines(out / "metrics.jsonl")
    assert rows[-1]["env_steps"] == 1600
    assert load_policy(out / "model")[1]["spaces"] == {"shape": [4], "sizes": [2], "num_numbers": 0}
    said = capsys.readouterr().out
    assert "deterministic  return" in said
    assert str(out / "model") in said


def test_steps_are_counted_where_no_episode_ends(tmp_path, capsys, registered, monkeypatch):
    """And one that goes on for ever is left when it judges."""
    registered(lambda: Counting(10**9))
    judging = partial(control_command.play_episodes, longest=50)
    monkeypatch.setattr(control_command, "play_episodes", judging)
    flags = ["--steps", "400", "--num-steps", "50", "--update-epochs", "2", "--evaluation-episodes", "2"]
    assert control("--env", "Made-v0", "--out", tmp_path / "run", *flags) == 0
    report = read(tmp_path / "run" / "report.json")
    assert report["steps"] == 400
    assert report["curve"] == []
    assert report["evaluation"]["unended"] == 2
    assert report["evaluation"]["mean_length"] == 50
    said = capsys.readouterr().out
    assert "Made-v0: 400 steps" in said
    assert "2 of them had not ended and count as they stood" in said


def test_the_same_seed_is_the_same_run_and_another_is_not(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert control("--env", "CartPole-v1", "--out", tmp_path / name, "--seed", seed, *FEW) == 0
    hashes = [hash_file(tmp_path / name / "model" / "policy.safetensors") for name in "abc"]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_policy_is_judged_on_episodes_that_training_never_had(tmp_path, monkeypatch):
    seeds, real = [], control_command.open_environments

    def opened(flags, num_envs, *, seed, **settings):
        seeds.append(seed)
        return real(flags, num_envs, seed=seed, **settings)

    monkeypatch.setattr(control_command, "open_environments", opened)
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", "--seed", 7, *FEW) == 0
    assert seeds == [7, 7 + EVALUATION_SEED, 7 + EVALUATION_SEED]


@pytest.mark.parametrize("autoreset", ["NextStep", "SameStep"])
def test_other_modes_of_beginning_anew_are_trained_in(tmp_path, autoreset):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", "--autoreset", autoreset, *FEW) == 0


def test_actions_that_are_numbers_and_a_memory(tmp_path):
    flags = [*FEW, "--steps", "600", "--recurrent-width", "8", "--hidden-sizes", "8"]
    assert control("--env", "Pendulum-v1", "--out", tmp_path / "run", *flags) == 0
    assert read(tmp_path / "run" / "model" / "policy.json")["networks"]["recurrent_width"] == 8


# --- settings ---------------------------------------------------------------------------------------


def test_a_preset_is_taken_and_flags_hold_all_the_same(tmp_path):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", *FEW, "--lam", "0.7") == 0
    settings = read(tmp_path / "run" / "config.json")["settings"]
    assert settings["discount"] == 0.98
    assert settings["lam"] == 0.7
    assert control("--env=CartPole-v1", "--no-preset", "--out", tmp_path / "bare", *FEW) == 0
    assert read(tmp_path / "bare" / "config.json")["settings"]["discount"] == 0.99


def test_every_preset_is_of_an_environment_that_is_there():
    for name, build in PRESETS.items():
        assert build().env == name
        assert name in gymnasium.registry
        assert find_preset(["--env", name]) == build()
    assert find_preset(["--env", "Taxi-v3"]) is None


# --- faults -----------------------------------------------------------------------------------------


def test_an_unknown_environment_is_refused_with_the_nearest(tmp_path, capsys):
    assert control("--env", "CartPole-v9", "--out", tmp_path / "run") == 2
    assert "CartPole-v1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_without_gymnasium_the_command_is_told(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert control("--env", "Taxi-v3", "--out", tmp_path / "run") == 2
    assert "pip install 'logratio[control]'" in capsys.readouterr().err


def test_an_environment_that_raises_leaves_what_was_trained(tmp_path, capsys):
    gymnasium.register("Faulty-v0", entry_point=lambda: Faulty("raises", at=130))
    try:
        flags = ["--env", "Faulty-v0", "--out", tmp_path / "run", *FEW, "--num-envs", "2"]
        assert control(*flags) == 2
        said = capsys.readouterr().err
        assert "ZeroDivisionError: no ground" in said
        assert "environment 0" in said
        assert "--resume" in said
        assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]
    finally:
        gymnasium.registry.pop("Faulty-v0")


@pytest.mark.parametrize(
    ("flag", "value"), [("--num-envs", 0), ("--discount", 2), ("--seeds", 0), ("--evaluation-episodes", 0)]
)
def test_settings_that_cannot_be_meant_are_refused(tmp_path, capsys, flag, value):
    assert control("--env", "CartPole-v1", "--out", tmp_path / "run", flag, value) == 2
    assert flag in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_actions_that_no_policy_gives_are_refused_with_the_place(tmp_path, capsys, registered):
    registered(Puzzling)
    assert control("--env", "Made-v0", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "UnsupportedSpace: actions of Text" in said
    assert "where: --env Made-v0" in said
    assert "do:    wrap the environment" in said
    assert not (tmp_path / "run").exists()


def test_an_environment_that_cannot_be_made_is_not_a_fault_of_ours(tmp_path, capsys, registered):
    registered(lambda: Faulty(**{"no such": "argument"}))
    assert control("--env", "Made-v0", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "EnvironmentFault: Made-v0 could not be made, it raised TypeError" in said
    assert "where: --env Made-v0" in said
    assert "bug in logratio" not in said


@pytest.mark.parametrize(
    ("how", "told"), [("reward", "a reward that is not a finite number: [inf]"), ("observation", "[nan]")]
)
def test_what_is_not_a_number_ends_the_run_with_its_place(tmp_path, capsys, registered, how, told):
    registered(lambda: Faulty(how, at=130))
    flags = ["--env", "Made-v0", "--out", tmp_path / "run", *FEW, "--num-envs", "2"]
    assert control(*flags) == 2
    said = capsys.readouterr().err
    assert told in said
    # Episodes of 10 steps: the 130th is the last of the thirteenth, in the third rollout of 50.
    assert "where: environment 0, step 10 of its episode" in said
    assert "--resume" in said
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]


@pytest.mark.parametrize("vectorisation", ["sync", "async"])
@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises", "raised ZeroDivisionError: no ground"),
        ("shape", "gave an observation of shape (5,), not (1,)"),
        ("words", "gave a reward that is no number: 'a lot'"),
        ("four values", "gave 4 values, not 5"),
    ],
)
def test_what_an_environment_does_wrong_is_told_with_its_number_and_step(
    tmp_path, capfd, registered, vectorisation, how, told
):
    registered(lambda: Faulty(how, at=130))
    flags = ["--env", "Made-v0", "--out", tmp_path / "run", *FEW, "--num-envs", "2"]
    assert control(*flags, "--vectorisation", vectorisation) == 2
    said = capfd.readouterr().err
    assert f"EnvironmentFault: Made-v0 {told}" in said
    # Processes step at the same time: whose word comes first is chance.
    assert re.search(r"where: environment [01], step 10 of its episode", said)
    assert "Traceback" not in said
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-000002"]


def test_a_module_that_is_named_is_imported(tmp_path, capsys, monkeypatch):
    (tmp_path / "brought_environments.py").write_text(
        "import gymnasium\n"
        "from scripted_environments import Counting\n"
        "gymnasium.register('Brought-v0', entry_point=lambda: Counting(7))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert control("--env", "brought_environments:Brought-v0", "--out", tmp_path / "run", *FEW) == 0
        assert read(tmp_path / "run" / "report.json")["evaluation"]["mean_length"] == 7
        assert control("--env", "brought_environments:Brougt-v0", "--out", tmp_path / "no", *FEW) == 2
        assert "perhaps you meant Brought-v0" in capsys.readouterr().err
        assert control("--env", "no_such_module:Brought-v0", "--out", tmp_path / "no", *FEW) == 2
        assert "the module 'no_such_module'" in capsys.readouterr().err
    finally:
        gymnasium.registry.pop("Brought-v0", None)


def test_what_an_environment_needs_is_told_in_its_own_words(tmp_path, capsys, registered):
    def build():
        raise gymnasium.error.DependencyNotInstalled("run `pip install somewhere`")

    registered(build)
    assert control("--env", "Made-v0", "--out", tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "do:    run `pip install somewhere`" in said
    assert "logratio[control]" not in said


# --- TensorBoard ------------------------------------------------------------------------------------


def drawn(path, name):
    """Places and values of a scalar, of all event files."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(path / "tensorboard"))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_has_every_number_over_environment_steps(tmp_path):
    out = tmp_path / "run"
    assert control("--env", "CartPole-v1", "--out", out, "--tensorboard", *FEW) == 0
    rows = read_json_lines(out / "metrics.jsonl")
    for name in ("episode_return", "update_kl", "learning_rate"):
        places, values = zip(*drawn(out, f"ppo/{name}"), strict=True)
        assert list(places) == [400, 800, 1200, 1600]
        assert values == pytest.approx([row[name] for row in rows])


# --- the flags --------------------------------------------------------------------------------------


def shown_flags(said):
    """The flags of a help text by the title of their box."""
    found = {}
    for line in said.splitlines():
        # The boxes are drawn with what the terminal has.
        if title := re.match(r"[╭─ ]*((\w+ )?options)[╮─ ]*$", line):
            group = found.setdefault(title[1], [])
        elif flag := re.match(r"[│ ] *(--[a-z][a-z-]+)", line):
            group.append(flag[1])
    return found


def test_the_help_shows_the_preset(capsys):
    assert control("--env", "CartPole-v1", "--help") == 0
    said = capsys.readouterr().out
    assert "Gymnasium" in said
    assert "0.98" in said


@pytest.mark.parametrize("trainer", ["ppo", "reinforce"])
def test_the_help_has_its_flags_in_groups(capsys, trainer):
    assert control("--help", trainer=trainer) == 0
    said = capsys.readouterr().out
    groups = shown_flags(said)
    assert list(groups) == ["options", "rollout options", "network options", "training options"]
    assert {"--env", "--seeds", "--video", "--evaluation-episodes"} <= set(groups["options"])
    assert {"--num-envs", "--discount"} <= set(groups["rollout options"])
    assert {"--hidden-sizes", "--recurrent-width"} <= set(groups["network options"])
    assert {"--learning-rate", "--minibatches", "--tensorboard"} <= set(groups["training options"])
    assert max(map(len, groups.values())) <= 26
    assert "(default: )" not in said
    # What is of text alone is not shown.
    hidden = {"--epochs", "--batch-size", "--row-tokens", "--local-kl", "--max-repetition"}
    assert hidden.isdisjoint(flag for flags in groups.values() for flag in flags)


@pytest.mark.parametrize("settings", [ControlPPOConfig, ControlReinforceConfig])
def test_both_trainers_have_the_same_settings_for_small_networks(settings):
    """Those of text are turned off in either, and what a trainer checks of its own is still checked."""
    made = settings().to_json()
    known = {"schedule": "linear", "max_gradient_norm": 0.5, "adam_epsilon": 1e-5, "warmup": 0.0}
    turned_off = {"max_reference_kl": 0.0, "max_repetition": 0.0, "max_length_change": 0.0, "local_kl": 0.0}
    one_rollout = {"epochs": 1.0, "batch_size": 1, "shuffle": False, "seed": 0}
    expected = known | turned_off | one_rollout | {"checkpoint_every": 50, "entropy_coefficient": 0.0}
    assert {name: made[name] for name in expected} == expected
    with pytest.raises(BadConfig, match="minibatches"):
        settings.of(minibatches=0)
    with pytest.raises(BadConfig, match="learning_rate"):
        settings.of(learning_rate=0.0)


@pytest.mark.parametrize("trainer", ["ppo", "reinforce"])
def test_a_run_is_repeated_by_the_settings_that_it_wrote(tmp_path, trainer):
    """Presets, flags and all: the same policy to the last bit, also of one of several runs."""
    out, again = tmp_path / "run", tmp_path / "again"
    flags = [word for word in FEW if trainer == "ppo" or word not in ("--update-epochs", "2")]
    assert control("--env", "CartPole-v1", "--out", out, "--seeds", 2, *flags, trainer=trainer) == 0
    config = out / "seed-1" / "config.yaml"
    assert control("--config", config, "--out", again, trainer=trainer) == 0
    assert hash_file(again / "model" / "policy.safetensors") == hash_file(
        out / "seed-1" / "model" / "policy.safetensors"
    )
    assert "seeds: 2" in (out / "config.yaml").read_text()
