"""The Python API: what `logratio.__all__` promises is there, documented, lazy and quiet."""

import doctest
import importlib
import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import logratio
from logratio.models.loading import save, weights_fingerprint
from tiny_models import tiny_llama, tiny_tokenizer

ROOT = Path(__file__).parents[1]


def api_page():
    """The generator of docs/api.md."""
    spec = importlib.util.spec_from_file_location("make_api", ROOT / "docs" / "make_api.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_importing_it_loads_nothing_heavy_and_prints_nothing():
    code = (
        "import sys; import logratio; dir(logratio);"
        "print(sorted({'torch', 'transformers', 'numpy', 'tyro', 'yaml', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_every_public_name_is_importable_and_listed():
    assert sorted(logratio.__all__) == logratio.__all__
    assert {name for name in logratio.__all__ if getattr(logratio, name) is None} == set()
    assert set(logratio.__all__) <= set(dir(logratio))
    homes = {name for names in logratio._HOMES.values() for name in names} | set(logratio._MODULES)
    assert homes == set(logratio.__all__)
    with pytest.raises(AttributeError, match="train_everything"):
        _ = logratio.train_everything


def test_the_names_for_type_checkers_are_those_that_are_imported():
    """What a type checker sees is what a program gets."""
    source = (ROOT / "src" / "logratio" / "__init__.py").read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("_HOMES = {")]
    seen = {
        name.strip(): module
        for module, names in re.findall(r"from logratio\.([\w.]+) import ([\w, ]+)", block)
        for name in names.split(",")
    }
    assert seen == {name: module for module, names in logratio._HOMES.items() for name in names}


def test_the_page_is_the_api():
    module = api_page()
    listed = [name for names in module.GROUPS.values() for name in names]
    assert sorted(listed) == logratio.__all__
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), "run python docs/make_api.py"


@pytest.mark.parametrize("name", [name for name in logratio.__all__ if not name[0].isupper()])
def test_functions_say_what_they_take_give_and_raise(name):
    function = getattr(logratio, name)
    if not inspect.isfunction(function) or name == "set_verbosity":
        return
    text = inspect.getdoc(function)
    assert all(f"{section}:\n" in text for section in ("Args", "Returns", "Raises"))
    parameters = list(inspect.signature(function).parameters)
    missing = [parameter for parameter in parameters if f"    {parameter}: " not in text]
    assert not missing
    assert len(parameters) <= 8


def test_the_doctests_hold():
    for module in (*logratio._HOMES, "data.given_rows"):
        failed, _ = doctest.testmod(importlib.import_module(f"logratio.{module}"))
        assert failed == 0, module


def test_no_setting_is_declared_twice_in_one_configuration():
    """So that each can be given by its own name."""
    for name in ("SFTConfig", "DPOConfig", "RewardConfig", "PPOConfig", "ReinforceConfig"):
        config = getattr(logratio, name)()
        own = [
            field
            for field in config.__dataclass_fields__
            if not hasattr(getattr(config, field), "__dataclass_fields__")
        ]
        nested = [
            inner
            for field in config.__dataclass_fields__
            for inner in getattr(getattr(config, field), "__dataclass_fields__", {})
        ]
        assert len(set(own + nested)) == len(own + nested)
        assert set(config.to_json()) == set(own + nested)


# --- recipes on a tiny model ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    path = tmp_path_factory.mktemp("api") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return path


ROWS = [
    {"prompt": f"say {number}", "chosen": f"a good {number}", "rejected": f"I hate {number} and more"}
    for number in range(12)
]
QUICK = {"batch_size": 4, "learning_rate": 1e-3}


def vowels(completions, **columns):
    return [sum(letter in "aeiou" for letter in str(answer)) / 10 for answer in completions]


def test_rows_in_memory_train_what_a_file_trains(tmp_path, start):
    """The same weights to the last bit, whether rows are mappings, records or a file."""
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    config = logratio.DPOConfig.of(**QUICK)
    weights = {}
    for name, rows in {"mappings": ROWS, "records": logratio.read_comparisons(path), "file": path}.items():
        run = logratio.train_dpo(start, rows, config, out=tmp_path / name)
        weights[name] = (run.model_path / "model.safetensors").read_bytes()
    assert weights["mappings"] == weights["records"] == weights["file"]


def test_a_run_is_repeated_by_the_settings_that_it_wrote(tmp_path, start):
    from logratio.cli.main import main

    run = logratio.train_dpo(start, ROWS, logratio.DPOConfig.of(beta=0.3, **QUICK), out=tmp_path / "run")
    assert main(["train", "dpo", "--config", str(run.config_path), "--out", str(tmp_path / "again")]) == 0
    again = logratio.Run(tmp_path / "again")
    assert [row["loss"] for row in again.metrics] == [row["loss"] for row in run.metrics]
    weights = [(each.model_path / "model.safetensors").read_bytes() for each in (run, again)]
    assert weights[0] == weights[1]
    other = tmp_path / "other"
    assert main(["train", "dpo", "--config", str(run.config_path), "--out", str(other), "--beta", "0.9"]) == 0
    assert logratio.Run(other).config["settings"]["beta"] == 0.9
    assert logratio.Run(other).config["settings"]["learning_rate"] == 1e-3


def test_a_policy_is_the_run_that_trained_it(tmp_path, start):
    policy = logratio.load_policy(start)
    sft = logratio.train_sft(policy, ROWS, logratio.SFTConfig.of(**QUICK), out=tmp_path / "sft")
    assert policy.name == str(sft.path)
    dpo = logratio.train_dpo(policy, ROWS, logratio.DPOConfig.of(**QUICK), out=tmp_path / "dpo")
    assert dpo.config["model"] == str(sft.path)
    by_name = logratio.train_dpo(sft, ROWS, logratio.DPOConfig.of(**QUICK), out=tmp_path / "by_name")
    assert dpo.metrics[-1]["loss"] == by_name.metrics[-1]["loss"]


def test_a_run_that_fails_leaves_the_policy_as_it_was(tmp_path, start):
    policy = logratio.load_policy(start)
    before = weights_fingerprint(policy.load().model)
    with pytest.raises(logratio.errors.LogratioError):
        logratio.train_dpo(
            policy, ROWS, logratio.DPOConfig.of(learning_rate=1e30, batch_size=4), out=tmp_path / "run"
        )
    assert policy.name == str(start)
    assert weights_fingerprint(policy.load().model) == before


def test_rewards_are_plain_functions(tmp_path, start):
    prompts = [f"say {number}" for number in range(6)]
    rollout = logratio.CollectorConfig(num_samples=2, max_new_tokens=5)
    settings = {"learning_rate": 1e-3, "batch_size": 3}
    common = {"rollout": rollout, "options": logratio.OnPolicyOptions()}
    ppo = logratio.train_ppo(
        start,
        prompts,
        [vowels, (0.5, lambda completions, **columns: [len(str(answer)) / 100 for answer in completions])],
        logratio.PPOConfig.of(minibatches=1, **settings),
        out=tmp_path / "ppo",
        **common,
    )
    rl = logratio.train_reinforce(
        start, prompts, [vowels], logratio.ReinforceConfig.of(**settings), out=tmp_path / "rl", **common
    )
    first = ppo.metrics[0]
    parts = {name: value for name, value in first.items() if name.startswith("reward/")}
    assert len(parts) == 2
    mine, other = sorted(parts, key=lambda name: "lambda" in name)
    assert first["reward"] == pytest.approx(parts[mine] + 0.5 * parts[other])
    # The first answers are the same: the prompts, the seeds and the model are.
    assert rl.metrics[0][mine] == parts[mine]
    with pytest.raises(logratio.errors.BadReward, match="int"):
        logratio.train_ppo(start, prompts, [3], out=tmp_path / "bad")


def test_samples_labels_and_checks(tmp_path, start, capsys):
    policy = logratio.load_policy(start)
    capsys.readouterr()
    logratio.set_verbosity("quiet")
    try:
        samples = logratio.sample(policy, ["one", "two"], num_samples=3, seed=5)
        again = logratio.sample(policy, ["two"], num_samples=3, seed=5, out=tmp_path / "answers.jsonl")
    finally:
        logratio.set_verbosity("normal")
    assert capsys.readouterr() == ("", "")
    drawn, redrawn = ([answer.token_ids for answer in made.completions] for made in (samples[1], again[0]))
    assert drawn == redrawn
    assert all(len(answer.token_ids) == len(answer.logprobs) for answer in samples[0].completions)
    rows = logratio.label(tmp_path / "answers.jsonl", vowels, pairs="all")
    assert rows == logratio.label(again, vowels, pairs="all")
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)
    report = logratio.check(ROWS, policy)
    assert (report.num_rows, report.num_usable, report.truncated["chosen"]) == (12, 12, 0)
    broken = logratio.check([*ROWS, {"prompt": "x", "chosen": "same", "rejected": "same"}])
    assert broken.faults == {"IdenticalPair": ["comparisons:13"]}


def test_a_reward_model_is_a_reward(tmp_path, start):
    config = logratio.RewardConfig.of(epochs=3, **QUICK)
    run = logratio.train_reward_model(start, ROWS, config, out=tmp_path / "rm")
    reward = logratio.load_reward(str(run.path))
    sample = logratio.Sample(
        prompt=logratio.Prompt("say 3"),
        completions=(logratio.Completion(text="a good 3"), logratio.Completion(text="I hate 3 and more")),
        columns={},
    )
    good, bad = reward([sample])[0]
    assert good > bad


def test_an_evaluation_without_a_directory_writes_nothing(tmp_path, start, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = logratio.train_sft(start, ROWS, logratio.SFTConfig.of(**QUICK), out=tmp_path / "sft")
    before = sorted(tmp_path.rglob("*"))
    prompts = [f"tell {number}" for number in range(6)]
    result = logratio.evaluate(run, reference=start, prompts=prompts, reward=vowels)
    assert sorted(tmp_path.rglob("*")) == before
    assert result.main.win_rate.n == 6
    out = tmp_path / "evaluation"
    again = logratio.evaluate(run, reference=start, prompts=prompts, reward=vowels, out=out)
    assert again.to_json() == result.to_json()
    assert (out / "report.json").exists()
    with pytest.raises(logratio.errors.SplitLeak):
        logratio.evaluate(run, reference=start, prompts=[row["prompt"] for row in ROWS], reward=vowels)


def test_the_readme_example_runs(tmp_path, start, monkeypatch):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = next(
        block for block in re.findall(r"```python\n(.*?)```", text, re.S) if "import logratio" in block
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text(
        "".join(json.dumps({"prompt": f"say {n}"}) + "\n" for n in range(40))
    )
    code = code.replace('"embedded"', repr(str(start)))
    namespace = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert namespace["result"].verdict.outcome in ("better", "worse", "not shown")
    assert (tmp_path / "runs" / "dpo" / "report.html").exists()
