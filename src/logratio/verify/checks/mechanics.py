"""The machinery around the formulas: packing, padding, sampling and accumulation change no number.

A log-probability must not depend on what else is in the batch, nor on whether it was formed while sampling or
while training; a gradient must not depend on how many parts the batch was computed in.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from logratio.algorithms.dpo import DPOConfig, train_dpo
from logratio.algorithms.sft import SFTConfig, train_sft
from logratio.generation.config import SamplingConfig
from logratio.generation.engines.selection import sample_tokens
from logratio.generation.sampler import sample
from logratio.objectives.dpo import dpo_loss
from logratio.packed_rows import AnswerGroup, PackedRow, Span
from logratio.policies.language import LanguagePolicy
from logratio.records import Prompt
from logratio.run_directory import RunDirectory
from logratio.training.config import TrainingConfig
from logratio.verify.checks.enumerated import (
    NUM_PROMPTS,
    NUM_SEQUENCES,
    POLICY,
    POLICY_SEED,
    WORLD,
    column,
    distance,
    language_logits,
    summed,
    tabular,
)
from logratio.verify.checks.rows import Check, Row, below, control, equal, relative
from logratio.verify.worlds import oracle, transformer
from logratio.verify.worlds.world import END, sequence_logprobs

VOCABULARY = 50
SEED = 9
CAPACITIES = {"one packed row": 10_000, "rows of 40 tokens": 40, "a row for each prompt": 1}
"""How many tokens a row may have."""


# --- E1: probabilities sum to 1 ----------------------------------------------------------------------


def check_probabilities_sum_to_one(quick: bool) -> list[Row]:
    """Every sequence has its probability, and together they have 1."""
    exact = column(oracle.sequence_probabilities(WORLD, language_logits())).log()
    rows = []
    for layout in ("packed", "unpacked"):
        policy = LanguagePolicy(transformer.small_llama(seed=POLICY_SEED), None, layout=layout)
        with torch.no_grad():
            logprobs = policy.sequence_logprobs(policy.pack(WORLD.groups()))
        rows += [
            equal(
                f"transformer, {layout}: Σ π(y)", _sums(logprobs), torch.ones(NUM_PROMPTS), tolerance=1e-12
            ),
            equal(f"transformer, {layout}: log π(y)", logprobs, exact, tolerance=1e-12),
        ]
    single = LanguagePolicy(transformer.small_llama(seed=POLICY_SEED).float(), None)
    packed = single.pack(WORLD.groups())
    with torch.no_grad():
        logprobs = single.sequence_logprobs(packed)
        shifted = single.sequence_logprobs([_shifted(row) for row in packed])
    endless = summed(tabular()[0].detach() * (WORLD.tokens != END).repeat(NUM_PROMPTS, 1))
    table = sequence_logprobs(WORLD, POLICY).flatten()
    by_oracle = column(oracle.sequence_probabilities(WORLD, POLICY)).log()
    return [
        *rows,
        equal("transformer in float32: Σ π(y)", _sums(logprobs), torch.ones(NUM_PROMPTS), tolerance=1e-6),
        equal("table of logits: Σ π(y)", _sums(table), torch.ones(NUM_PROMPTS), tolerance=1e-12),
        equal("table of logits: log π(y)", table, by_oracle, tolerance=1e-12),
        control("tokens read one place late", float((_sums(shifted) - 1).abs().max()), at_least=0.1),
        control("the end token left out", float((_sums(endless) - 1).abs().max()), at_least=0.1),
    ]


def _sums(logprobs: Tensor) -> Tensor:
    """`[P]` sums of the probabilities."""
    return logprobs.double().exp().view(NUM_PROMPTS, NUM_SEQUENCES).sum(dim=1)


def _shifted(row: PackedRow) -> PackedRow:
    """The row with each token predicted from one place further on: from itself, where it has been read."""
    return replace(row, source_positions=(row.source_positions + 1).clamp(max=row.input_ids.shape[1] - 1))


# --- M1: batches, layouts, sampling -------------------------------------------------------------------


def unequal_groups(num: int, *, num_answers: int) -> list[AnswerGroup]:
    """Prompts of 1 to 11 tokens with answers of 1 to 14, the end token last."""
    generator = torch.Generator().manual_seed(SEED)

    def draw(low: int, high: int) -> tuple[int, ...]:
        length = int(torch.randint(low, high, (1,), generator=generator))
        return tuple(torch.randint(1, VOCABULARY, (length,), generator=generator).tolist())

    return [
        AnswerGroup(draw(1, 12), tuple((*draw(0, 14), END) for _ in range(num_answers))) for _ in range(num)
    ]


def wide_llama() -> LlamaForCausalLM:
    """The transformer of M1 and M2: more words, and wide enough to round like a real one."""
    return transformer.small_llama(seed=SEED, vocabulary=VOCABULARY, hidden=32, spread=0.2)


@torch.no_grad()
def scored(policy: LanguagePolicy, groups: Sequence[AnswerGroup], *, max_tokens: int) -> Tensor:
    """`[N]` log-probabilities of all answer tokens in the order of the groups."""
    by_group: dict[int, Tensor] = {}
    for part, rows in policy.micro_batches(groups, max_tokens=max_tokens):
        tokens = torch.cat([policy.evaluate(row) for row in rows])
        sizes = [groups[index].num_answer_tokens for index in part]
        by_group |= dict(zip(part, tokens.split(sizes), strict=True))
    return torch.cat([by_group[index] for index in range(len(groups))])


def check_logprobs_batch_invariance(quick: bool) -> list[Row]:
    """The same log-probabilities packed, apart, alone, while sampling and when scored again."""
    groups = unequal_groups(6, num_answers=3)
    one_by_one = wide_llama()
    exact = torch.tensor(
        [
            logprob
            for group in groups
            for answer in group.answers
            for logprob in oracle.answer_logprobs(one_by_one, group.prompt, answer)
        ],
        dtype=torch.float64,
    )
    rows = []
    for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        model = wide_llama().to(dtype)
        precision = str(dtype).removeprefix("torch.")
        for name, capacity in CAPACITIES.items():
            ours = scored(LanguagePolicy(model, None), groups, max_tokens=capacity)
            rows.append(equal(f"{precision}: {name}", ours, exact, tolerance=tolerance))
        apart = scored(LanguagePolicy(model, None, layout="unpacked"), groups, max_tokens=1)
        rows.append(equal(f"{precision}: each answer by itself", apart, exact, tolerance=tolerance))
    policy = LanguagePolicy(wide_llama(), None)
    (row,) = policy.pack(groups)
    width = row.input_ids.shape[1]
    onwards = torch.arange(width)[None]
    with torch.no_grad():
        visible = policy.evaluate(replace(row, spans=(Span(0, width, ()),)))
        misplaced = policy.evaluate(replace(row, position_ids=onwards))
    rows += [
        control("answers that see their siblings", float((visible - exact).abs().max()), at_least=0.1),
        control(
            "positions that go on from the sibling", float((misplaced - exact).abs().max()), at_least=0.1
        ),
    ]
    return [*rows, *_sampling_rows(), _frequencies(draws=1_000 if quick else 4_000)]


def _sampling_rows() -> list[Row]:
    """Log-probabilities formed while sampling, against the oracle's and against scoring."""
    prompts = [Prompt(" ".join(transformer.WORDS[token] for token in prompt)) for prompt in WORLD.prompts]
    rows = []
    for name, settings in (
        ("as the model is", {}),
        ("one at a time", {"decode_batch_size": 1}),
        ("temperature 0.7", {"temperature": 0.7}),
        ("top-k 2 at temperature 1.5", {"temperature": 1.5, "top_k": 2}),
    ):
        config = SamplingConfig(max_new_tokens=12, **settings)
        samples = sample(
            transformer.small_llama(seed=POLICY_SEED),
            transformer.word_tokenizer(),
            prompts,
            num_samples=8,
            seed=SEED,
            config=config,
        )
        answers = [answer for drawn in samples for answer in drawn.completions]
        groups = [
            AnswerGroup(prompt, tuple(tuple(answer.token_ids or ()) for answer in drawn.completions))
            for prompt, drawn in zip(WORLD.prompts, samples, strict=True)
        ]
        behaviour = _column([answer.logprobs for answer in answers])
        at_1 = _column([answer.model_logprobs for answer in answers])
        again = scored(LanguagePolicy(transformer.small_llama(seed=POLICY_SEED), None), groups, max_tokens=64)
        drawn_from = _oracle_logprobs(groups, temperature=config.temperature, top_k=config.top_k)
        rows += [
            equal(f"sampled, {name}: log μ", behaviour, drawn_from, tolerance=1e-12),
            equal(f"sampled, {name}: log π, scored again", at_1, again, tolerance=1e-12),
        ]
        if config.temperature != 1:
            off = float((at_1 - behaviour).abs().max())
            rows.append(control(f"{name}: log π taken for log μ", off, at_least=0.1))
    return rows


def _column(values: Sequence[Sequence[float] | None]) -> Tensor:
    """`[N]` in float64 of what the answers' records hold."""
    return torch.tensor([value for answer in values for value in answer or ()], dtype=torch.float64)


def _oracle_logprobs(groups: Sequence[AnswerGroup], *, temperature: float, top_k: int) -> Tensor:
    model = transformer.small_llama(seed=POLICY_SEED)
    return torch.tensor(
        [
            logprob
            for group in groups
            for answer in group.answers
            for logprob in oracle.answer_logprobs(
                model, group.prompt, answer, temperature=temperature, top_k=top_k
            )
        ],
        dtype=torch.float64,
    )


def _frequencies(*, draws: int) -> Row:
    """Whether sequences come as often as they are probable: means of 32 random numbers on them."""
    answers = sample_tokens(
        transformer.small_llama(seed=POLICY_SEED),
        WORLD.prompts,
        [range(prompt * draws, (prompt + 1) * draws) for prompt in range(NUM_PROMPTS)],
        stop_ids=[END],
        pad_id=END,
        config=SamplingConfig(max_new_tokens=WORLD.horizon, decode_batch_size=512),
    )
    index_of = {sequence: index for index, sequence in enumerate(WORLD.sequences)}
    drawn = torch.tensor(
        [[index_of[answer.token_ids] for answer in drawn_answers] for drawn_answers in answers]
    )
    generator = torch.Generator().manual_seed(SEED)
    values = torch.randn(32, NUM_PROMPTS, NUM_SEQUENCES, generator=generator, dtype=torch.float64)
    probabilities = column(oracle.sequence_probabilities(WORLD, language_logits())).view(NUM_PROMPTS, -1)
    mean = (probabilities * values).sum(dim=-1)
    deviation = ((probabilities * values.square()).sum(dim=-1) - mean.square()).sqrt()
    means = values.gather(2, drawn.expand(32, -1, -1)).mean(dim=-1)
    z = (means - mean) / (deviation / draws**0.5)
    return below("sampled sequences come as often as they must: largest |z| of 64", float(z.abs().max()), 5.5)


# --- M2: accumulation --------------------------------------------------------------------------------


def check_gradient_accumulation(quick: bool) -> list[Row]:
    """The gradient of a batch computed at once, in parts, and an example at a time."""
    rows = []
    for name, num_answers, train, config, loss in (
        ("SFT", 1, train_sft, SFTConfig.of(batch_size=8, shuffle=False), _sft_loss),
        ("DPO", 2, train_dpo, DPOConfig.of(batch_size=8, shuffle=False, beta=0.1), _dpo_loss),
    ):
        groups = unequal_groups(8, num_answers=num_answers)
        exact = _gradient_alone(groups, loss)
        doubles, singles = (
            {
                parts: _gradient_in_training(
                    wide_llama().to(dtype), groups, train, config.replace(row_tokens=capacity)
                )
                for parts, capacity in CAPACITIES.items()
            }
            for dtype in (torch.float64, torch.float32)
        )
        rows += [
            relative(f"{name}: {parts}, against the loss written out", ours, exact, tolerance=1e-9)
            for parts, ours in doubles.items()
        ]
        # Against each other: what a division changes, not what float32 rounds away in any of them.
        whole, *others = singles.items()
        rows += [
            relative(f"{name} in float32: {parts}, against {whole[0]}", ours, whole[1], tolerance=1e-6)
            for parts, ours in others
        ]
    groups = unequal_groups(8, num_answers=1)
    shares = [_gradient_alone([group], _sft_loss) for group in groups]
    off = distance(torch.stack(shares).mean(dim=0), _gradient_alone(groups, _sft_loss))
    return [*rows, control("SFT, each part divided by its own tokens", off, at_least=0.05)]


def _gradient_in_training(
    model: LlamaForCausalLM,
    groups: Sequence[AnswerGroup],
    train: Callable[..., dict[str, Any]],
    config: TrainingConfig,
) -> Tensor:
    """The gradient that a trainer has accumulated before its one update, as one column in float64."""
    gradients: dict[int, Tensor] = {}
    for index, parameter in enumerate(model.parameters()):

        def keep(owner: Tensor, index: int = index) -> None:
            assert owner.grad is not None
            gradients[index] = owner.grad.double().flatten().clone()

        parameter.register_post_accumulate_grad_hook(keep)
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.redirect_stderr(io.StringIO()),
        RunDirectory.begin(Path(directory) / "run", {"identity": config.identity()}) as run,
    ):
        train(LanguagePolicy(model, None), groups, config, run)
    return torch.cat([gradients[index] for index in sorted(gradients)])


def _gradient_alone(
    groups: Sequence[AnswerGroup], loss: Callable[[Tensor, Sequence[AnswerGroup]], Tensor]
) -> Tensor:
    """The gradient of the written-out loss, each answer through the model's own forward pass."""
    model = wide_llama()
    logprobs = []
    for group in groups:
        for answer in group.answers:
            tokens = torch.tensor([[*group.prompt, *answer]])
            table = model(input_ids=tokens).logits[0, len(group.prompt) - 1 : -1].log_softmax(dim=-1)
            logprobs.append(table.gather(1, torch.tensor(answer)[:, None]).sum())
    gradients = torch.autograd.grad(loss(torch.stack(logprobs), groups), list(model.parameters()))
    return torch.cat([gradient.flatten() for gradient in gradients])


def _sft_loss(logprobs: Tensor, groups: Sequence[AnswerGroup]) -> Tensor:
    """The mean over the answer tokens of the batch."""
    return -logprobs.sum() / sum(group.num_answer_tokens for group in groups)


def _dpo_loss(logprobs: Tensor, groups: Sequence[AnswerGroup]) -> Tensor:
    """The mean over the pairs of the batch, the reference being the policy as it is."""
    chosen, rejected = logprobs.view(-1, 2).unbind(dim=1)
    return dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=0.1).mean()


CHECKS = (
    Check(name="E1", title="The probabilities of all sequences sum to 1", run=check_probabilities_sum_to_one),
    Check(
        name="M1",
        title="A log-probability does not depend on its batch, nor on who computes it",
        run=check_logprobs_batch_invariance,
    ),
    Check(
        name="M2",
        title="A gradient does not depend on the parts a batch is computed in",
        run=check_gradient_accumulation,
    ),
)
