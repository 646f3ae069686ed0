"""Models in memory, evaluated from beginning to end."""

from __future__ import annotations

from pathlib import Path

import pytest

from logratio.errors import BadConfig, ReferenceAliased, TooFewLabels
from logratio.evaluation.policy_divergence import sequence_kl
from logratio.evaluation.run_evaluation import EvaluationConfig, evaluate_policies
from logratio.generation.config import SamplingConfig
from logratio.models import tokenisation
from logratio.models.loading import LoadedModel
from logratio.records import Prompt
from tiny_models import tiny_llama, tiny_tokenizer

PROMPTS = [Prompt(f"the cat sat on the mat {index}") for index in range(6)]
CONFIG = EvaluationConfig(
    sampling=SamplingConfig(max_new_tokens=6, decode_batch_size=8), seed=5, resamples=200
)


class Letters:
    name = "tests:letters"

    def __call__(self, samples):
        return [[float(len(one.text)) for one in sample.completions] for sample in samples]


def loaded(tokenizer, seed: int) -> LoadedModel:
    model = tiny_llama(len(tokenizer), seed=seed, spread=0.1)
    return LoadedModel(
        model=model, tokenizer=tokenizer, source=f"seed {seed}", directory=Path(), fingerprint=str(seed)
    )


@pytest.fixture(scope="module")
def evaluation(tokenizer):
    models = {"policy": loaded(tokenizer, 1), "sft": loaded(tokenizer, 2), "reference": loaded(tokenizer, 3)}
    return evaluate_policies(models, PROMPTS, Letters(), CONFIG)


def test_kl_is_that_of_the_policy_on_its_own_answers(evaluation, tokenizer):
    policy, reference = loaded(tokenizer, 1).model, loaded(tokenizer, 3).model
    encoded = [
        (tokenisation.encode_prompt(tokenizer, row.prompt), row.answers["policy"].completion.token_ids)
        for row in evaluation.rows
    ]
    expected = sequence_kl(policy, reference, encoded)
    assert [row.answers["policy"].kl for row in evaluation.rows] == pytest.approx(expected, abs=1e-6)
    assert evaluation.to_json()["kl"]["policy"] == pytest.approx(sum(expected) / len(expected))


def test_every_model_answers_with_the_same_seeds(evaluation):
    for row in evaluation.rows:
        assert len({answer.completion.seed for answer in row.answers.values()}) == 1
    seeds = {row.answers["policy"].completion.seed for row in evaluation.rows}
    assert len(seeds) == len(PROMPTS)


def test_a_model_against_itself_is_never_better(tokenizer):
    models = {"policy": loaded(tokenizer, 1), "reference": loaded(tokenizer, 1)}
    found = evaluate_policies(models, PROMPTS, Letters(), CONFIG)
    assert found.verdict.outcome == "not shown"
    assert found.main.identical == len(PROMPTS)
    assert found.main.win_rate.value == 0.5
    assert found.to_json()["kl"]["policy"] == pytest.approx(0, abs=1e-6)


def test_models_are_asked_for_once_and_two_at_a_time(tokenizer):
    asked = []

    class Recorder(dict):
        def __getitem__(self, name):
            asked.append(name)
            return super().__getitem__(name)

    models = Recorder(policy=loaded(tokenizer, 1), sft=loaded(tokenizer, 2), reference=loaded(tokenizer, 3))
    evaluate_policies(models, PROMPTS[:2], Letters(), CONFIG)
    assert asked == ["reference", "sft", "policy"]


def test_a_temperature_is_a_warning(tokenizer):
    config = EvaluationConfig(sampling=SamplingConfig(max_new_tokens=3, temperature=0.5), resamples=10)
    models = {"policy": loaded(tokenizer, 1), "reference": loaded(tokenizer, 3)}
    found = evaluate_policies(models, PROMPTS[:2], Letters(), config)
    assert [warning.name for warning in found.warnings] == ["KLOffDistribution"]


def test_what_cannot_be_evaluated_is_refused(tokenizer):
    other = tiny_tokenizer(chat=False)
    models = {"policy": loaded(other, 1), "reference": loaded(tokenizer, 1)}
    with pytest.raises(ReferenceAliased, match="different tokenizers"):
        evaluate_policies(models, PROMPTS[:2], Letters(), CONFIG)
    models["policy"] = loaded(tokenizer, 2)
    with pytest.raises(TooFewLabels):
        evaluate_policies(models, PROMPTS[:1], Letters(), CONFIG)
    with pytest.raises(BadConfig, match="prompt 3 is the same as prompt 1"):
        evaluate_policies(models, [*PROMPTS[:2], PROMPTS[0]], Letters(), CONFIG)
