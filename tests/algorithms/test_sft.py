"""The SFT trainer against values known exactly."""

import pytest
import torch

from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.packed_rows import AnswerGroup
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from tiny_models import exact_llama, random_groups, tiny_llama

VOCABULARY = 50


def train(tmp_path, name, groups, model, **settings):
    config = SFTConfig.of(**settings)
    with RunDirectory.begin(tmp_path / name, {"identity": config.identity()}) as run:
        train_sft(LanguagePolicy(model, None), groups, config, run)
    return run.metrics


def test_the_first_loss_is_the_mean_over_answer_tokens(tmp_path):
    groups = random_groups(6, vocab_size=VOCABULARY, num_answers=1)
    model = exact_llama(VOCABULARY)
    total, count = 0.0, 0
    for group in groups:
        tokens = torch.tensor([[*group.prompt, *group.answers[0]]])
        labels = tokens.clone()
        labels[:, : len(group.prompt)] = -100
        total += float(model(input_ids=tokens, labels=labels).loss.detach()) * len(group.answers[0])
        count += len(group.answers[0])
    metrics = train(tmp_path, "run", groups, model, batch_size=6)
    assert metrics[0]["loss"] == pytest.approx(total / count, abs=1e-6)


def test_unequal_lengths_accumulate_to_the_batch(tmp_path):
    """k parts divided by the batch's tokens, never each by its own (theory M2)."""
    groups = random_groups(8, vocab_size=VOCABULARY, num_answers=1)
    results = []
    for name, row_tokens in (("whole", 10_000), ("parts", 1), ("some", 25)):
        model = exact_llama(VOCABULARY)
        train(tmp_path, name, groups, model, batch_size=8, row_tokens=row_tokens, adam_epsilon=1e-3)
        results.append(torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]))
    assert (results[0] - results[1]).abs().max() < 1e-10
    assert (results[0] - results[2]).abs().max() < 1e-10


def test_the_model_learns_the_answer_and_to_stop(tmp_path):
    group = AnswerGroup((3, 4, 5), ((6, 7, 0),))
    model = tiny_llama(VOCABULARY)
    train(tmp_path, "run", [group] * 8, model, learning_rate=1e-2, epochs=40, schedule="constant")
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[3, 4, 5, 6, 7]])).logits[0, 2:]
    assert logits.argmax(-1).tolist() == [6, 7, 0]
    assert float(logits.softmax(-1)[-1, 0]) > 0.95
