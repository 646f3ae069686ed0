"""From comparisons to a reward model, and from there to labels, an evaluation and a page."""

import json
import re

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from logratio.cli.main import main
from logratio.data.preference_formats import read_comparisons
from logratio.errors import BadReward
from logratio.evaluation.reward_calibration import JudgedPair, Share, evaluate_reward_model
from logratio.evaluation.reward_summary import describe
from logratio.models.loading import save
from logratio.records import Completion, Prompt, Sample
from logratio.rollouts.rewards import load_reward
from logratio.run_directory import RunDirectory, read_json_lines, write_json_lines
from tiny_models import tiny_llama, tiny_tokenizer

SMALL = ["--batch-size", "4", "--learning-rate", "3e-3", "--threads", "1", "--epochs", "3"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    tokenizer = tiny_tokenizer()
    path = tmp_path_factory.mktemp("start") / "model"
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, path)
    return str(path)


def rows(num=24):
    """Three answers per prompt: good over bad and over so-so; every fourth prompt has a tie as well."""
    written = []
    for n in range(num):
        good, middle, bad = f"a good {n}", f"it is {n}, no more", f"I hate {n} and more"
        written += [
            {"prompt": f"say {n}", "chosen": good, "rejected": bad, "sure": 1.0},
            {"prompt": f"say {n}", "chosen": good, "rejected": middle, "sure": 0.5},
        ]
        if n % 4 == 0:
            written.append({"prompt": f"say {n}", "chosen": middle, "rejected": bad, "sure": 0, "tie": True})
            written.append({"prompt": f"say {n}", "chosen": bad, "rejected": middle, "sure": 0, "tie": True})
    return written


@pytest.fixture
def data(tmp_path):
    path = tmp_path / "pairs.jsonl"
    write_json_lines(path, rows())
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory, start):
    """A reward model that likes what is good, made once."""
    place = tmp_path_factory.mktemp("trained")
    write_json_lines(place / "pairs.jsonl", rows())
    flags = ["--data", place / "pairs.jsonl", "--model", start, "--out", place / "rm", "--held-out", "0.3"]
    assert main(["train", "reward", *map(str, flags), "--margin", "sure", *SMALL]) == 0
    return place / "rm"


def train(*flags):
    return main(["train", "reward", *map(str, flags), *SMALL])


def test_a_run_tells_how_good_its_model_is(trained, capsys):
    run = RunDirectory(trained)
    counts = json.loads((trained / "data.json").read_text())
    assert counts["num_rows"] == 60 == counts["train"] + counts["held_out"]
    # Ties in both orders do not contradict each other.
    assert counts["contradictions"] == []
    assert sum(row["pairs"] for row in run.metrics) == 3 * counts["train"]
    found = json.loads((trained / "reward_model.json").read_text())
    held_out = read_json_lines(trained / "held_out.jsonl")
    ties = sum(row.get("tie", False) for row in held_out)
    assert found["num_ties"] == ties
    assert found["accuracy"]["n"] == len(held_out) - ties
    assert found["accuracy"]["value"] > 0.9
    assert found["accuracy"]["low"] < found["accuracy"]["value"] <= found["accuracy"]["high"]
    assert {row["sure"] for row in held_out if not row.get("tie")} == {0.5, 1.0}
    assert len(read_comparisons(trained / "held_out.jsonl").comparisons) == len(held_out)
    assert {invariant["name"] for invariant in json.loads((trained / "invariants.json").read_text())} == {
        "packed_equals_unpacked",
        "accumulation_equals_batch",
    }


def test_what_is_printed_has_the_baselines(tmp_path, start, data, capsys):
    assert train("--data", data, "--model", start, "--out", tmp_path / "rm", "--held-out", "0.3") == 0
    shown = capsys.readouterr().out
    assert re.search(r"reward model +\d+\.\d %", shown)
    assert re.search(r"the (longer|shorter) answer wins +\d+\.\d %", shown)
    assert "calibration error" in shown
    assert f"--reward {tmp_path / 'rm'}" in shown


def test_what_labels_allow_is_told_where_the_data_say_it():
    pairs = [
        JudgedPair(
            prompt=str(n),
            chosen=1.0,
            rejected=0.0,
            chosen_length=4,
            rejected_length=3,
            rewards=(1.0, 0.0) if n < 8 else (0.0, 1.0),
        )
        for n in range(10)
    ]
    shown = describe(evaluate_reward_model(pairs, agreement=Share(value=0.82, low=0.7, high=0.9, n=40)))
    assert re.search(r"the longer answer wins +100\.0 %", shown)
    assert re.search(r"the reward that the labels were drawn from +80\.0 %", shown)
    assert re.search(r"two labels of one pair agree \(40 pairs\) +82\.0 %", shown)
    assert "ceiling: labels that noisy allow 80.0 %" in shown


def test_transformers_opens_the_model_and_gives_the_same_scores(trained):
    prompts, answers = ["say 3", "say this"], ["a good 3", "I hate that and more"]
    samples = [
        Sample(prompt=Prompt(prompt), completions=(Completion(text=answer),), columns={})
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    ours = [values[0] for values in load_reward(str(trained))(samples)]
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    model = AutoModelForSequenceClassification.from_pretrained(trained / "model").eval()
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}], tokenize=False
        ).removesuffix("\n")
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0]
    assert ours == pytest.approx(theirs.tolist(), abs=1e-5)


def test_a_finished_run_can_be_resumed_to_nothing_more_and_not_otherwise(tmp_path, start, data, capsys):
    flags = ["--data", data, "--model", start, "--out", tmp_path / "rm"]
    assert train(*flags) == 0
    weights = (tmp_path / "rm" / "model" / "model.safetensors").read_bytes()
    assert train(*flags, "--resume") == 0
    assert (tmp_path / "rm" / "model" / "model.safetensors").read_bytes() == weights
    assert train(*flags, "--resume", "--centring", "0.1") == 2
    assert "centring was 0.0, is 0.1" in capsys.readouterr().err


def test_without_held_out_prompts_nothing_is_claimed(tmp_path, start, data, capsys):
    assert train("--data", data, "--model", start, "--out", tmp_path / "rm", "--held-out", "0") == 0
    assert "raise --held-out" in capsys.readouterr().out
    assert not (tmp_path / "rm" / "reward_model.json").exists()


def test_a_tie_that_cannot_be_used_is_counted(tmp_path, start, data, capsys):
    write_json_lines(
        data, [*rows(), {"prompt": "x" * 2000, "chosen": "a", "rejected": "b", "tie": True, "sure": 0}]
    )
    assert train("--data", data, "--model", start, "--out", tmp_path / "rm", "--max-length", "300") == 0
    assert "61 rows: 60 usable, 1 left out (1 PromptTooLong)" in capsys.readouterr().err


def test_bad_columns_and_margins_are_refused_with_nothing_written(tmp_path, start, data, capsys):
    flags = ["--data", data, "--model", start, "--out", tmp_path / "rm"]
    assert train(*flags, "--margin", "shure") == 2
    assert "rename 'sure' to 'shure'" in capsys.readouterr().err
    assert train(*flags, "--margin", "-1") == 2
    assert "--margin" in capsys.readouterr().err
    assert not (tmp_path / "rm").exists()


# --- as a reward -------------------------------------------------------------------------------------


def sample(prompt, *answers):
    completions = tuple(Completion(text=text, finish_reason=end) for text, end in answers)
    return Sample(prompt=Prompt(prompt), completions=completions, columns={})


def test_it_labels(tmp_path, trained, capsys):
    samples = [
        sample(f"say {n}", (f"I hate {n} and more", "stop"), (f"a good {n}", "stop")) for n in range(6)
    ]
    write_json_lines(tmp_path / "completions.jsonl", [one.to_json() for one in samples])
    flags = [
        "--completions",
        tmp_path / "completions.jsonl",
        "--reward",
        trained,
        "--out",
        tmp_path / "out.jsonl",
    ]
    assert main(["label", *map(str, flags)]) == 0
    labelled = read_json_lines(tmp_path / "out.jsonl")
    assert [row["chosen"] for row in labelled] == [f"a good {n}" for n in range(6)]
    (judge,) = {row["judge"] for row in labelled}
    assert judge == load_reward(str(trained / "model")).name
    assert judge in capsys.readouterr().out


def test_how_an_answer_ended_reaches_it(trained):
    (ended, cut), (again, _) = load_reward(str(trained))(
        [
            sample("say 1", ("a good 1", "stop"), ("a good 1", "length")),
            sample("say 1", ("a good 1", "stop"), ("x", "stop")),
        ]
    )
    assert abs(ended - cut) > 1e-4
    assert ended == again


def test_it_judges_an_evaluation(tmp_path, trained, start):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"tell {n}\n" for n in range(12)))
    flags = ["--policy", start, "--reference", start, "--prompts", prompts, "--reward", trained]
    out = tmp_path / "evaluation"
    assert main(["evaluate", *map(str, flags), "--out", str(out), "--max-new-tokens", "6"]) == 0
    report = json.loads((out / "report.json").read_text())
    assert report["verdict"]["judge"].startswith("reward model ")
    assert report["provenance"]["judge"] == str(trained)


def test_a_language_model_is_no_reward(start):
    with pytest.raises(BadReward, match="directory holds no reward model") as fault:
        load_reward(start)
    assert "logratio train reward" in fault.value.action


def test_a_model_whose_padding_ends_answers_is_opened_with_a_note(tmp_path, trained, capsys):
    tokenizer = AutoTokenizer.from_pretrained(trained / "model")
    tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForSequenceClassification.from_pretrained(trained / "model")
    save_as = tmp_path / "other"
    model.save_pretrained(save_as)
    tokenizer.save_pretrained(save_as)
    samples = [sample("say 1", ("a good 1", "stop"))]
    assert load_reward(str(save_as))(samples) == load_reward(str(trained))(samples)
    assert "ends answers" in capsys.readouterr().err


# --- the page ----------------------------------------------------------------------------------------


def test_the_page_of_a_reward_model_shows_its_calibration(trained, capsys):
    assert main(["report", str(trained)]) == 0
    page = (trained / "report.html").read_text()
    assert "Calibration" in page
    assert "The shorter answer wins" in page
    assert "No evaluation" not in page
    report = json.loads((trained / "report.json").read_text())
    assert (
        report["reward_model"]["accuracy"]
        == json.loads((trained / "reward_model.json").read_text())["accuracy"]
    )
    assert report["missing"] == []
