"""Answers as records: their seeds, their tokens, and what they do not depend on."""

import io
from types import SimpleNamespace

import pytest
import torch

from logratio import errors
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.selection import SampledAnswer
from logratio.generation.sampler import answer_seed, sample, to_completion
from logratio.models import tokenisation
from logratio.progress import Progress
from logratio.records import Message, Prompt

CONFIG = SamplingConfig(max_new_tokens=12)
PROMPTS = [
    Prompt("the cat"),
    Prompt((Message(role="system", content="be brief"), Message(role="user", content="a good day?"))),
    Prompt("I like this. I hate that."),
]


def draw(model, tokenizer, prompts=PROMPTS, **changes):
    settings = {"num_samples": 3, "seed": 0, "config": CONFIG} | changes
    return sample(model, tokenizer, prompts, **settings)


def test_completions_hold_tokens_logprobs_text_and_seed(model, tokenizer):
    samples = draw(model, tokenizer)
    assert [drawn.prompt for drawn in samples] == PROMPTS
    for drawn in samples:
        prompt_ids = list(tokenisation.encode_prompt(tokenizer, drawn.prompt))
        assert len(drawn.completions) == 3
        for number, completion in enumerate(drawn.completions):
            ids = torch.tensor([[*prompt_ids, *completion.token_ids]])
            with torch.no_grad():
                logprobs = model(ids).logits[0, len(prompt_ids) - 1 : -1].double().log_softmax(-1)
            expected = logprobs.gather(-1, torch.tensor(completion.token_ids)[:, None])[:, 0]
            assert torch.tensor(completion.logprobs).double() == pytest.approx(expected, abs=1e-5)
            assert completion.text == tokenisation.decode(tokenizer, completion.token_ids)
            assert completion.seed == answer_seed(0, drawn.prompt, number)
            assert tokenisation.encode_completion(tokenizer, drawn.prompt, completion) == completion.token_ids


def test_an_answer_depends_on_seed_prompt_and_number_alone(model, tokenizer):
    together = draw(model, tokenizer)
    alone = draw(
        model, tokenizer, PROMPTS[1:2], config=SamplingConfig(max_new_tokens=12, decode_batch_size=1)
    )
    more = draw(model, tokenizer, PROMPTS[::-1], num_samples=5)
    for reference, other in [(together[1], alone[0]), (together[1], more[1])]:
        tokens = [completion.token_ids for completion in other.completions[:3]]
        assert tokens == [completion.token_ids for completion in reference.completions]


def test_seeds_differ_by_run_prompt_and_number_and_survive_json():
    seeds = [answer_seed(run, prompt, answer) for run in (0, 1) for prompt in PROMPTS for answer in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**53 for seed in seeds)


def test_another_seed_gives_other_answers(model, tokenizer):
    first, second = draw(model, tokenizer), draw(model, tokenizer, seed=1)
    assert [c.token_ids for s in first for c in s.completions] != [
        c.token_ids for s in second for c in s.completions
    ]


def test_known_answers_are_not_drawn_again(model, tokenizer):
    everything = draw(model, tokenizer)
    places = [(row, answer) for row in range(3) for answer in range(3)]
    known = {
        place: everything[place[0]].completions[place[1]] for place in places if place not in [(0, 1), (2, 2)]
    }
    batches = []
    again = draw(model, tokenizer, store=SimpleNamespace(known=known, add=batches.append))
    assert sorted((placed.prompt, placed.answer) for batch in batches for placed in batch) == [(0, 1), (2, 2)]
    for before, after in zip(everything, again, strict=True):
        for mine, other in zip(before.completions, after.completions, strict=True):
            assert (mine.token_ids, mine.seed, mine.text) == (other.token_ids, other.seed, other.text)


def test_the_generation_configs_end_tokens_end_answers_too(model, tokenizer):
    model.generation_config.eos_token_id = list(range(2, len(tokenizer)))
    for drawn in draw(model, tokenizer):
        assert {completion.finish_reason for completion in drawn.completions} == {"stop"}
        assert {len(completion.token_ids) for completion in drawn.completions} == {1}


def test_progress_counts_answers(model, tokenizer):
    stream = io.StringIO()
    with Progress("sampling", 9, unit="answers", stream=stream) as progress:
        draw(
            model, tokenizer, config=SamplingConfig(max_new_tokens=4, decode_batch_size=2), progress=progress
        )
    assert progress.done == 9
    assert "sampling: 9/9 answers" in stream.getvalue()
    assert "tokens/s" in stream.getvalue()


def test_no_samples_is_refused(model, tokenizer):
    with pytest.raises(errors.BadConfig):
        draw(model, tokenizer, num_samples=0)


def test_no_end_token_is_named(model, plain_tokenizer, monkeypatch):
    monkeypatch.setattr(tokenisation, "stop_token_ids", lambda *_: frozenset())
    with pytest.raises(errors.SpecialTokenTrouble):
        draw(model, plain_tokenizer)


def test_the_end_token_is_not_part_of_the_text(tokenizer):
    ids = (*tokenizer("a good day", add_special_tokens=False)["input_ids"], tokenizer.eos_token_id)
    decoded = SampledAnswer(token_ids=ids, logprobs=(0.0,), model_logprobs=(0.0,), finish_reason="stop")
    assert to_completion(tokenizer, decoded, seed=1).text == "a good day"
