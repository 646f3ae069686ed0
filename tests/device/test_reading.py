"""Answers, scores, distances and files on the pretended device are those of the CPU."""

from dataclasses import replace

import pytest
import torch

from device.pretended_device import NAME, pretended_device
from device.training_runs import MODELS, TOLERANCE, VOCABULARY, groups_of, model_of, words
from logratio.errors import ReferenceAliased
from logratio.evaluation.policy_divergence import measure_divergence
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.selection import sample_tokens
from logratio.kernels import packing
from logratio.kernels.chunked_kl import compare_tokens
from logratio.models.loading import load, save, weights_fingerprint
from logratio.models.lora import POLICY, adapter_parameters, add_adapter
from logratio.models.reward_model import add_score_head, load_reward_model
from logratio.policies import language
from logratio.policies.implicit_reward import ImplicitReward
from logratio.policies.language import LanguagePolicy
from logratio.policies.reward_scorer import RewardModel
from logratio.records import Completion, Prompt
from logratio.run_directory import RunDirectory
from logratio.training.export import save_trained
from logratio.training.invariants import check_reference_is_separate
from logratio.training.layout_check import select_layout
from tiny_models import tiny_llama, tiny_tokenizer

WAYS = {
    "as the model says": {},
    "cut and sharpened": {"temperature": 0.7, "top_k": 40, "top_p": 0.9},
    "greedily": {"temperature": 0.0},
}
TEXTS = [
    (Prompt("the cat"), Completion(text=text, finish_reason="stop")) for text in ("sat", "on the mat", "sat")
] + [(Prompt("a good day"), Completion(text="I like this", finish_reason="stop"))]


def answers(model, **settings):
    """Of rows that come and go: a batch holds two of the three prompts."""
    prompts = [list(group.prompt) for group in groups_of(3)]
    seeds = [[10 * number + answer for answer in range(2)] for number in range(3)]
    config = SamplingConfig(max_new_tokens=5, decode_batch_size=4, **settings)
    return [one for own in sample_tokens(model, prompts, seeds, [0, 1, 2], 0, config) for one in own]


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_drawn_alike(name):
    for way, settings in WAYS.items():
        here = answers(model_of(name, "cpu"), **settings)
        with pretended_device():
            there = answers(model_of(name, NAME), **settings)
        for ours, theirs in zip(there, here, strict=True):
            assert ours.token_ids == theirs.token_ids, way
            assert ours.finish_reason == theirs.finish_reason, way
            assert ours.logprobs == pytest.approx(theirs.logprobs, abs=TOLERANCE[name]), way
            assert ours.model_logprobs == pytest.approx(theirs.model_logprobs, abs=TOLERANCE[name]), way


def test_answers_on_a_device_without_float64_and_in_bfloat16():
    here = answers(model_of("llama", "cpu", dtype=torch.float32))
    with pretended_device(has_float64=False):
        there = answers(model_of("llama", NAME, dtype=torch.float32))
        others = answers(model_of("gemma2", NAME))
        coarse = answers(model_of("llama", NAME, dtype=torch.float32), precision="bf16")
        policy = LanguagePolicy(model_of("llama", NAME, dtype=torch.float32), None)
        policy.set_compute(precision="bf16")
        prompts = [group.prompt for group in groups_of(3) for _ in range(2)]
        for prompt, answer in zip(prompts, coarse, strict=True):
            (row,) = policy.pack([replace(groups_of(1)[0], prompt=prompt, answers=(answer.token_ids,))])
            assert policy.evaluate(row).tolist() == pytest.approx(answer.model_logprobs, abs=0.5)
    assert [one.token_ids for one in there] == [one.token_ids for one in here]
    assert [one.token_ids for one in others] == [one.token_ids for one in answers(model_of("gemma2", "cpu"))]


@pytest.mark.parametrize("has_float64", [True, False])
def test_texts_are_scored_alike(has_float64):
    dtype = torch.float64 if has_float64 else torch.float32

    def scores(device):
        model = add_score_head(model_of("qwen2", device, dtype=dtype), source="made", seed=0)
        policy, reference = (
            LanguagePolicy(model_of("qwen2", device, seed=n, dtype=dtype), words()) for n in (0, 1)
        )
        judge = RewardModel(model, words())
        found = judge.score(TEXTS) + ImplicitReward(policy, reference).score(TEXTS)
        assert judge.layout == "packed"
        return found

    here = scores("cpu")
    with pretended_device(has_float64=has_float64):
        there = scores(NAME)
    assert there == pytest.approx(here, abs=1e-9 if has_float64 else 1e-4)


@pytest.mark.parametrize("name", ["smollm3", "gemma2"])
def test_the_distance_to_a_reference_is_measured_alike(name):
    encoded = [(group.prompt, answer) for group in groups_of(3) for answer in group.answers]
    here = measure_divergence(*(model_of(name, "cpu", seed=n, dtype=torch.float32) for n in (0, 1)), encoded)
    with pretended_device(has_float64=False):
        models = [model_of(name, NAME, seed=n, dtype=torch.float32) for n in (0, 1)]
        there = measure_divergence(*models, encoded)
        with pytest.raises(ReferenceAliased):
            check_reference_is_separate(models[0].state_dict(), models[0].state_dict())
        check_reference_is_separate(models[0].state_dict(), models[1].state_dict())
    assert there.exact == pytest.approx(here.exact, abs=1e-4)
    assert there.log_ratios == pytest.approx(here.log_ratios, abs=1e-4)


def test_models_are_loaded_to_a_device_and_saved_from_it(tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_llama(len(tokenizer))
    save(model, tokenizer, tmp_path / "model")
    save(add_score_head(tiny_llama(len(tokenizer)), source="made", seed=0), tokenizer, tmp_path / "judge")
    here = load_reward_model(str(tmp_path / "judge"))
    with pretended_device():
        there = load(str(tmp_path / "model"), device=NAME)
        assert there.model.device.type == NAME
        assert weights_fingerprint(there.model) == weights_fingerprint(model)
        save(there.model, tokenizer, tmp_path / "again")
        judge = load_reward_model(str(tmp_path / "judge"), device=NAME)
        scores = RewardModel(judge.model, judge.tokenizer).score(TEXTS)
    assert weights_fingerprint(load(str(tmp_path / "again")).model) == weights_fingerprint(model)
    assert scores == pytest.approx(RewardModel(here.model, here.tokenizer).score(TEXTS), abs=1e-5)


def test_an_adapter_is_folded_into_a_model_on_the_device(tmp_path):
    tokenizer = tiny_tokenizer()

    def saved(device, path):
        model = tiny_llama(len(tokenizer))
        add_adapter(model, rank=4, alpha=8, seed=0, base="made")
        with torch.no_grad():
            for number, weight in enumerate(adapter_parameters(model, POLICY)):
                torch.nn.init.normal_(weight, 0.0, 0.1, torch.Generator().manual_seed(number))
        with RunDirectory.begin(path, {"identity": {}}) as run:
            save_trained(model.to(device), tokenizer, run)
            return load(str(run.model_path)).model.state_dict()

    here = saved("cpu", tmp_path / "here")
    with pretended_device():
        there = saved(NAME, tmp_path / "there")
    assert here.keys() == there.keys()
    for name, weight in here.items():
        torch.testing.assert_close(there[name], weight, rtol=1e-6, atol=1e-6, msg=name)


@pytest.mark.parametrize("reader", ["policy", "scorer"])
def test_two_devices_in_packed_rows_are_not_taken_for_the_architecture(reader, monkeypatch):
    def half_on_the_cpu(groups, *, device="cpu"):
        row = packing.pack(groups, device=device)
        return replace(
            row,
            target_ids=row.target_ids.cpu(),
            source_positions=row.source_positions.cpu(),
            input_ids=row.input_ids.cpu(),
        )

    monkeypatch.setattr(language, "pack", half_on_the_cpu)
    with pretended_device():
        model = model_of("llama", NAME)
        read = (
            LanguagePolicy(model, None)
            if reader == "policy"
            else RewardModel(add_score_head(model, source="made", seed=0), None)
        )
        with pytest.raises(RuntimeError, match="on the same device"):
            select_layout(read, groups_of()) if reader == "policy" else read.select_layout(groups_of())
        assert read.layout == "packed"


@pytest.mark.parametrize("chunk", [VOCABULARY, 29])
def test_a_comparison_waits_for_the_device_as_often_however_many_chunks_it_has(chunk):
    generator = torch.Generator().manual_seed(0)
    states, weight, others, head = (
        torch.randn(*shape, generator=generator)
        for shape in ((7, 5), (VOCABULARY, 5), (7, 4), (VOCABULARY, 4))
    )
    targets = torch.arange(7) * 40
    expected = compare_tokens(states, weight, others, head, targets, chunk=chunk)
    with pretended_device(has_float64=False) as counts:
        parts = [one.to(NAME) for one in (states, weight, others, head, targets)]
        found = compare_tokens(*parts, chunk=chunk)
    assert (counts.uploads, counts.downloads, counts.waits) == (5, 4, 4)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
