"""The example takes a tiny model the whole way, in the process and under forty lines."""

import importlib.util
import json
import math
from pathlib import Path

from logratio.models.loading import save
from tiny_models import tiny_llama, tiny_tokenizer

EXAMPLE = Path(__file__).parents[2] / "examples" / "pipeline.py"


def test_the_example_goes_from_a_model_to_a_report(tmp_path, capsys):
    tokenizer = tiny_tokenizer()
    save(tiny_llama(len(tokenizer), spread=0.1), tokenizer, tmp_path / "model")
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"say {number}"}) + "\n" for number in range(20)))
    spec = importlib.util.spec_from_file_location("pipeline", EXAMPLE)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    settings = {"batch_size": 4, "learning_rate": 1e-3}
    run = example.main(str(tmp_path / "model"), str(prompts), tmp_path / "out", **settings)
    # The reference is the policy as it comes in.
    assert math.isclose(run.metrics[0]["loss"], math.log(2), abs_tol=1e-6)
    assert run.config["model"] == str(tmp_path / "out" / "sft")
    assert (run.model_path / "model.safetensors").exists()
    assert (run.path / "report.html").exists()
    assert (run.path / "evaluation" / "report.json").exists()
    said = capsys.readouterr()
    assert "data: " in said.out
    assert "report " in said.out


def test_the_example_is_short():
    assert len(EXAMPLE.read_text().splitlines()) < 40
