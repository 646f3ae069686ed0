"""The implicit reward of a policy against its reference, held against transformers token by token."""

from __future__ import annotations

import json

import pytest
import torch

from logratio import errors
from logratio.cli.main import main
from logratio.models.loading import save
from logratio.policies.implicit_reward import ImplicitReward
from logratio.policies.language import LanguagePolicy
from logratio.records import Completion, Prompt
from logratio.rollouts.rewards import load_reward
from logratio.run_directory import read_json_lines
from tiny_models import tiny_llama, tiny_tokenizer

TEXTS = [(Prompt("the cat"), Completion(text=text)) for text in ("ran", "I hate a ball", "ran")]
TEXTS += [(Prompt("a good day?"), Completion(text="I like this."))]


def policy(seed: int) -> LanguagePolicy:
    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    model = tiny_llama(len(tokenizer), spread=0.3)
    for weight in model.parameters():
        weight.data += 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return LanguagePolicy(model.eval(), tokenizer, layout="unpacked")


def by_transformers(one: LanguagePolicy, prompt: tuple[int, ...], answer: tuple[int, ...]) -> float:
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logprobs = one.model(input_ids=ids).logits[0].double().log_softmax(dim=-1)
    start = len(prompt) - 1
    return sum(float(logprobs[start + place, token]) for place, token in enumerate(answer))


def test_it_is_the_difference_of_what_transformers_says() -> None:
    trained, reference = policy(1), policy(2)
    scorer = ImplicitReward(trained, reference)
    wanted = []
    for prompt, completion in TEXTS:
        ids = scorer.encode(prompt, completion, where="here")
        wanted.append(by_transformers(trained, *ids) - by_transformers(reference, *ids))
    found = scorer.score(TEXTS)
    assert found == pytest.approx(wanted, abs=1e-4)
    assert found[0] == found[2]
    assert max(map(abs, found)) > 0.1
    assert ImplicitReward(reference, trained).score(TEXTS) == [-value for value in found]
    assert scorer.score(TEXTS, max_tokens=8) == pytest.approx(found, abs=1e-5)


def test_a_model_prefers_nothing_to_itself() -> None:
    assert ImplicitReward(policy(1), policy(1)).score(TEXTS) == [0.0] * len(TEXTS)


def test_it_labels_by_its_name(tmp_path) -> None:
    for name, seed in (("policy", 1), ("reference", 2)):
        one = policy(seed)
        save(one.model, one.tokenizer, tmp_path / name)
    row = {"prompt": "the cat", "completions": [{"text": "ran"}, {"text": "I hate a ball"}]}
    (tmp_path / "completions.jsonl").write_text(json.dumps(row) + "\n")
    reward = f"implicit:{tmp_path / 'policy'},{tmp_path / 'reference'}"
    files = ["--completions", str(tmp_path / "completions.jsonl"), "--out", str(tmp_path / "pairs.jsonl")]
    assert main(["label", *files, "--reward", reward]) == 0
    (pair,) = read_json_lines(tmp_path / "pairs.jsonl")
    wanted = ImplicitReward(policy(1), policy(2)).score(TEXTS[:2])
    assert (pair["chosen_reward"], pair["rejected_reward"]) == pytest.approx(
        sorted(wanted, reverse=True), abs=1e-4
    )


@pytest.mark.parametrize("spec", ["implicit:", "implicit:a", "implicit:a,", "implicit:a,b,c"])
def test_two_models_are_named(spec: str) -> None:
    with pytest.raises(errors.BadReward, match="two models"):
        load_reward(spec)
