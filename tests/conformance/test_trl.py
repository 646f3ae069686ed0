"""Preference losses and training runs against TRL; where the two differ, a test says who does what."""

from __future__ import annotations

import math
import warnings

import pytest
import torch

from logratio.algorithms.dpo import DPOConfig, PairLogprobs, gather_pairs, pair_losses, train_dpo
from logratio.data.preference_formats import parse_comparison
from logratio.models.loading import load, save
from logratio.policies.language import LanguagePolicy
from logratio.run_directory import RunDirectory
from tiny_models import exact_llama, random_groups, tiny_llama, tiny_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    trl = pytest.importorskip("trl")
    datasets = pytest.importorskip("datasets")
    from transformers import AutoModelForCausalLM
    from trl.data_utils import extract_prompt

pytestmark = [pytest.mark.conformance, pytest.mark.filterwarnings("ignore")]

TESTED = "1.16.0"
FLOAT32 = torch.finfo(torch.float32).eps
TOKENIZER = tiny_tokenizer()
VOCABULARY = len(TOKENIZER)
GROUPS = random_groups(6, vocab_size=VOCABULARY)
PEER_SETTINGS = {
    "lr_scheduler_type": "constant",
    "num_train_epochs": 1,
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "gradient_checkpointing": False,
    "train_sampling_strategy": "sequential",
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "bf16": False,
    "use_cpu": True,
    "disable_tqdm": True,
}


def as_row(group):
    """A pair as TRL has it after tokenising."""
    chosen, rejected = group.answers
    return {"prompt_ids": list(group.prompt), "chosen_ids": list(chosen), "rejected_ids": list(rejected)}


def peer(model, reference, tmp_path, **settings):
    """TRL's trainer on the same tokens: it begins with a row of text, and gets the tokens afterwards."""
    trainer = trl.DPOTrainer(
        model=model,
        ref_model=reference,
        args=trl.DPOConfig(output_dir=str(tmp_path / "trl"), **PEER_SETTINGS, **settings),
        train_dataset=datasets.Dataset.from_list([{"prompt": "a", "chosen": " b", "rejected": " c"}]),
        processing_class=TOKENIZER,
    )
    trainer.train_dataset = datasets.Dataset.from_list([as_row(group) for group in GROUPS])
    return trainer


def peer_loss(trainer, groups):
    """TRL's loss of a batch: a mean over its pairs."""
    return trainer._compute_loss(trainer.model, trainer.data_collator([as_row(g) for g in groups]), False)


def our_pairs(model, reference, groups=GROUPS) -> PairLogprobs:
    policy, before = LanguagePolicy(model, None), LanguagePolicy(reference, None)
    rows = policy.pack(groups)
    with torch.no_grad():
        known = before.sequence_logprobs(before.pack(groups)).reshape(-1, 2)
    return gather_pairs(policy.sequence_logprobs(rows), known, rows, torch.ones(len(known)))


def gradient(loss, model):
    model.zero_grad()
    loss.backward()
    return torch.cat([parameter.grad.reshape(-1).double() for parameter in model.parameters()])


def models(seed: int = 0):
    return exact_llama(VOCABULARY, seed=seed), exact_llama(VOCABULARY, seed=7)


# Our name and settings | TRL's. `ipo` is by sums here and by means in TRL: that dialect is `ipo-mean`.
SAME = {
    "DPO": ({"loss": "dpo"}, {"loss_type": "sigmoid"}),
    "hinge": ({"loss": "hinge"}, {"loss_type": "hinge"}),
    "IPO, by means": ({"loss": "ipo-mean"}, {"loss_type": "ipo"}),
    "robust": ({"loss": "robust", "label_smoothing": 0.1}, {"loss_type": "robust", "label_smoothing": 0.1}),
    "length-normalised": ({"loss": "length-normalised"}, {"loss_type": "sigmoid_norm"}),
    "APO-zero": ({"loss": "apo-zero"}, {"loss_type": "apo_zero"}),
    # TRL sorts the pairs of a batch here; of one pair its formula is conservative DPO's.
    "conservative DPO": (
        {"loss": "dpo", "label_smoothing": 0.1},
        {"loss_type": "aot_unpaired", "label_smoothing": 0.1},
    ),
}


def test_the_version_is_the_one_that_is_spoken_of():
    assert trl.__version__ == TESTED


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("beta", [0.1, 2.0])
def test_the_loss_of_a_pair_and_its_gradient_by_every_weight(name, beta, tmp_path):
    """TRL forms log-probabilities in float32, whatever the model has: that sets the distance."""
    ours, theirs = SAME[name]
    (model, reference), config = models(), DPOConfig.of(beta=beta, **ours)
    trainer = peer(*models(), tmp_path, beta=beta, **theirs)
    for group in GROUPS:
        pair = our_pairs(model, reference, [group])
        loss, found = pair_losses(pair, config).sum(), peer_loss(trainer, [group])
        assert float(found.detach()) == pytest.approx(float(loss.detach()), rel=1e-5, abs=1e-6)
        ours_slope, their_slope = gradient(loss, model), gradient(found, trainer.model)
        score = gradient(our_pairs(model, reference, [group]).chosen.sum(), model).norm()
        # The second term: where σ is near 1, float32 does not know the last digits of 1 − σ.
        assert (their_slope - ours_slope).norm() <= 1e-4 * ours_slope.norm() + 4 * FLOAT32 * beta * score


def test_a_training_run_ends_in_the_same_weights(tmp_path):
    """Three updates of two pairs each by AdamW: losses on the way, and every weight at the end."""
    ours, theirs = tiny_llama(VOCABULARY), tiny_llama(VOCABULARY)
    config = DPOConfig.of(
        beta=0.1,
        learning_rate=1e-3,
        batch_size=2,
        epochs=1.0,
        schedule="constant",
        warmup=0.0,
        weight_decay=0.0,
        max_gradient_norm=1.0,
        shuffle=False,
    )
    with RunDirectory.begin(tmp_path / "ours", {"identity": config.identity()}) as run:
        train_dpo(LanguagePolicy(ours, TOKENIZER), GROUPS, config, run)
        losses = [row["loss"] for row in run.metrics]
    settings = {"beta": 0.1, "learning_rate": 1e-3, "per_device_train_batch_size": 2}
    trainer = peer(theirs, tiny_llama(VOCABULARY), tmp_path, **settings)
    trainer.train()
    found = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert max(losses) - min(losses) > 1e-3
    assert found == pytest.approx(losses, abs=1e-4)
    start = dict(tiny_llama(VOCABULARY).named_parameters())
    moved = max(float((p - start[name]).detach().abs().max()) for name, p in ours.named_parameters())
    apart = max(
        float((p - q).detach().abs().max())
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True)
    )
    assert moved > 1e-3
    assert apart < 2e-2 * moved


def test_ipo_by_sums_is_the_paper_s_and_not_trl_s(tmp_path):
    """Equation 17 has no lengths; TRL divides by them, on the authors' word."""
    model, reference = models()
    pair = our_pairs(model, reference)
    trainer = peer(*models(), tmp_path, beta=0.1, loss_type="ipo")
    theirs = float(peer_loss(trainer, GROUPS).detach())
    by_sums, by_means = (
        float(pair_losses(pair, DPOConfig.of(loss=loss, beta=0.1)).mean().detach())
        for loss in ("ipo", "ipo-mean")
    )
    assert theirs == pytest.approx(by_means, rel=1e-5)
    assert abs(theirs - by_sums) > 0.1


def test_trl_takes_label_smoothing_for_dpo_and_ignores_it(tmp_path):
    model, reference = models()
    found = [
        float(peer_loss(peer(*models(), tmp_path, beta=0.5, label_smoothing=e), GROUPS).detach())
        for e in (0.0, 0.3)
    ]
    assert found[0] == found[1]
    ours = [
        float(
            pair_losses(our_pairs(model, reference), DPOConfig.of(beta=0.5, label_smoothing=e))
            .mean()
            .detach()
        )
        for e in (0.0, 0.3)
    ]
    assert ours[0] == pytest.approx(found[0], rel=1e-5)
    assert abs(ours[1] - ours[0]) > 1e-2


def test_trl_s_reference_is_the_model_on_disk_not_the_one_it_is_given(tmp_path):
    """Weights that changed in memory, as by fine-tuning: the first loss is ln 2 here, and not in TRL."""
    save(tiny_llama(VOCABULARY), TOKENIZER, tmp_path / "model")

    def tuned(model):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
        return model

    theirs = tuned(AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval())
    found = float(peer_loss(peer(theirs, None, tmp_path), GROUPS).detach())
    assert abs(found - math.log(2)) > 1e-2
    policy = LanguagePolicy(tuned(load(str(tmp_path / "model")).model), TOKENIZER)
    config = DPOConfig.of(batch_size=len(GROUPS))
    with RunDirectory.begin(tmp_path / "ours", {"identity": config.identity()}) as run:
        train_dpo(policy, GROUPS, config, run)
        assert run.metrics[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)


def test_trl_gives_words_that_two_answers_share_to_the_prompt():
    shared = "\n\nHuman: why?\n\nAssistant:"
    row = {"chosen": f"{shared} I think so, since it rains.", "rejected": f"{shared} I think not."}
    theirs = extract_prompt(row)
    assert theirs["prompt"] == f"{shared} I think"
    assert theirs["chosen"] == " so, since it rains."
    ours = parse_comparison(row, where="row 1")
    assert ours.prompt.content[-1].content == "why?"
    assert (ours.chosen.text, ours.rejected.text) == ("I think so, since it rains.", "I think not.")
