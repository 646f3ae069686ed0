"""Pitfalls of policy gradients, KL divergences, packing and sampling, planted: exact checks must notice."""

import pytest

from mutants.harness import Mutant, survivors, unsound

POLICY_GRADIENT, ADVANTAGES = "logratio.objectives.policy_gradient", "logratio.objectives.advantages"
IMPORTANCE, PPO, KL = "logratio.objectives.importance", "logratio.objectives.ppo", "logratio.objectives.kl"
COME_AND_GO = (
    "generation/engines/test_selection.py::"
    "test_rows_that_come_and_go_are_answered_as_those_that_transformers_caches"
)
PACKING, DECODING = "logratio.kernels.packing", "logratio.generation.engines.selection"
DRAWING, CACHE = "logratio.generation.token_sampling", "logratio.generation.engines.kv_cache"


def expectations(*names: str) -> tuple[str, ...]:
    return tuple(f"exact/test_expectations.py::test_every_row_passes[{name}]" for name in names)


def mechanics(*names: str) -> tuple[str, ...]:
    return tuple(f"exact/test_mechanics.py::test_every_row_passes[{name}]" for name in names)


# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "the policy gradient goes downhill",
        f"{POLICY_GRADIENT}:reinforce_loss",
        "return -weighted.detach() * logprobs",
        "return weighted.detach() * logprobs",
        expectations("E3", "E4", "E5", "E7"),
    ),
    (
        "gradients flow through the importance weights",
        f"{POLICY_GRADIENT}:reinforce_loss",
        "return -weighted.detach() * logprobs",
        "return -weighted * logprobs",
        expectations("E3", "E5"),
    ),
    (
        "importance weights are left out",
        f"{POLICY_GRADIENT}:reinforce_loss",
        "weighted = advantages if log_weights is None else advantages * log_weights.exp()",
        "weighted = advantages",
        expectations("E3", "E5"),
    ),
    (
        "importance weights are used as logarithms",
        f"{POLICY_GRADIENT}:reinforce_loss",
        "advantages * log_weights.exp()",
        "advantages * log_weights",
        expectations("E3", "E5"),
    ),
    (
        "the best baseline is the mean",
        f"{POLICY_GRADIENT}:optimal_baseline",
        "return torch.dot(squared_score_norms, returns) / total",
        "return returns.mean() + 0 * total",
        expectations("E3"),
    ),
    (
        "one's own reward is in the leave-one-out baseline",
        f"{ADVANTAGES}:leave_one_out",
        "return (group_size / (group_size - 1) * (groups - groups.mean(dim=1, keepdim=True))).flatten()",
        "return (groups - groups.mean(dim=1, keepdim=True)).flatten()",
        expectations("E4", "E5"),
    ),
    (
        "the baseline is the sum of the siblings",
        f"{ADVANTAGES}:leave_one_out",
        "return (group_size / (group_size - 1) * (groups - groups.mean(dim=1, keepdim=True))).flatten()",
        "return (2 * groups - groups.sum(dim=1, keepdim=True) + 0.1 * groups).flatten()",
        expectations("E4", "E5"),
    ),
    (
        "groups are always divided by their deviation",
        f"{ADVANTAGES}:group_centred",
        "    if not divide_by_std:\n        return (deviation * spread).flatten()\n",
        "",
        expectations("E4"),
    ),
    (
        "rewards-to-go leave out the next reward",
        f"{ADVANTAGES}:discounted_sum",
        "total = term + torch.where(is_cut, nothing, weight * total)",
        "total = term + torch.where(is_cut, nothing, weight * (total - (later if sums else 0)))\n"
        "        later = term",
        expectations("E3", "E5", "E7"),
    ),
    (
        "the discount is applied to the reward at hand too",
        f"{ADVANTAGES}:discounted_sum",
        "total = term + torch.where(is_cut, nothing, weight * total)",
        "total = torch.where(is_cut, nothing, weight * (term + total))",
        expectations("E3", "E5", "E7", "R1"),
    ),
    (
        "what stands behind an episode's end comes through",
        f"{ADVANTAGES}:weighted",
        "return torch.where(weights == 0, torch.zeros_like(values), weights * values)",
        "return weights * values",
        expectations("E3"),
    ),
    (
        "what stands behind an episode's end is added to its returns",
        f"{ADVANTAGES}:discounted_sum",
        "total = term + torch.where(is_cut, nothing, weight * total)",
        "total = term + weight * total",
        ("objectives/test_advantages.py::test_returns_hand_worked",),
    ),
    (
        "the value of the next state is not taken into the difference",
        f"{ADVANTAGES}:gae",
        "differences = rewards + weighted(discounts, next_values) - values",
        "differences = rewards - values",
        expectations("E3"),
    ),
    (
        "weights per decision leave out the decision itself",
        f"{IMPORTANCE}:log_weights",
        "return torch.where(mask, log_ratio.cumsum(dim=1), zero)",
        "return torch.where(mask, log_ratio.cumsum(dim=1) - log_ratio, zero)",
        expectations("E3", "E5"),
    ),
    (
        "a sequence's weight is its mean token's",
        f"{IMPORTANCE}:log_weights",
        "return log_ratio.sum(dim=1)",
        "return log_ratio.sum(dim=1) / mask.sum(dim=1)",
        expectations("E3", "E5"),
    ),
    (
        "the ratio of PPO is its logarithm",
        f"{PPO}:clip_loss",
        "ratio = torch.where(clipped, log_ratio.detach(), log_ratio).exp()",
        "ratio = torch.where(clipped, log_ratio.detach(), log_ratio)",
        ("objectives/test_ppo.py::test_clip_in_every_region",),
    ),
    (
        "the ratio of PPO is upside down",
        f"{PPO}:clip_loss",
        "ratio = torch.where(clipped, log_ratio.detach(), log_ratio).exp()",
        "ratio = (-torch.where(clipped, log_ratio.detach(), log_ratio)).exp()",
        expectations("E5"),
    ),
    (
        "k2 is not halved",
        f"{KL}:k2",
        "log_ratio.square() / 2",
        "log_ratio.square()",
        expectations("E6", "E7"),
    ),
    (
        "k3 is of the other direction",
        f"{KL}:k3",
        "return torch.expm1(-log_ratio) + log_ratio",
        "return torch.expm1(log_ratio) - log_ratio",
        expectations("E6", "E7"),
    ),
    (
        "k3 is clamped",
        f"{KL}:k3",
        "return torch.expm1(-log_ratio) + log_ratio",
        "return (torch.expm1(-log_ratio) + log_ratio).clamp(max=1)",
        expectations("E6"),
    ),
    (
        "k1 is turned round",
        f"{KL}:k1",
        "    return log_ratio\n",
        "    return -log_ratio\n",
        expectations("E6", "E7", "R1"),
    ),
    (
        "the reported KL is of the reference to the policy",
        "logratio.evaluation.policy_divergence:_token_values",
        "kl.append(exact_kl(p, q))",
        "kl.append(exact_kl(q, p))",
        expectations("E6"),
    ),
    (
        "the reported KL leaves out the first token of an answer and counts the last twice",
        "logratio.evaluation.policy_divergence:_right_padded",
        "range(len(prompt) - 1, len(prompt) + len(answer) - 1)",
        "[*range(len(prompt), len(prompt) + len(answer) - 1), len(prompt) + len(answer) - 2]",
        ("evaluation/test_policy_divergence.py::test_padded_rows_say_what_packed_rows_say",),
    ),
    (
        "a token is predicted from its own place",
        f"{PACKING}:pack",
        "source_positions += [prompt_end - 1, *range(first, len(tokens))]",
        "source_positions += [min(first, len(tokens) - 1), *range(first, len(tokens))]",
        mechanics("E1", "M1"),
    ),
    (
        "the last token counts for the answer before",
        f"{PACKING}:pack",
        "            answer_index += [num_answers] * len(answer)",
        "            answer_index += [num_answers] * (len(answer) - 1) + [max(0, num_answers - 1)]",
        mechanics("E1"),
    ),
    (
        "answers see their siblings",
        "logratio.kernels.packed_attention:group_mask",
        "mask[first:end, : span.prompt_end - span.start] = True",
        "mask[first:end, : max(first, span.prompt_end - span.start)] = True",
        mechanics("E1", "M1"),
    ),
    (
        "positions go on from the sibling answer",
        f"{PACKING}:pack",
        "positions += range(len(group.prompt), len(group.prompt) + len(answer) - 1)",
        "positions += range(len(tokens) - start - len(answer) + 1, len(tokens) - start)",
        mechanics("E1", "M1"),
    ),
    (
        "padding on the left is attended to",
        f"{CACHE}:DecodingState._advance",
        "attention_mask=(columns[None] >= self._padding[:, None]).long(),",
        "attention_mask=(columns[None] >= 0 * self._padding[:, None]).long(),",
        (COME_AND_GO,),
    ),
    (
        "a row forgets which prompt it answers",
        f"{CACHE}:DecodingState.__init__",
        "[rows.to(self._device)]\n",
        "[rows.sort(descending=True).values.to(self._device)]\n",
        (COME_AND_GO,),
    ),
    (
        "temperature is left out of the log-probabilities",
        f"{DRAWING}:sample_from_logits",
        "    logprobs = _logprobs(truncated, truncated_sums, tokens)",
        "    logprobs = _logprobs(shifted, block_sums, tokens)",
        mechanics("M1"),
    ),
    (
        "top-k is left out of the log-probabilities",
        f"{DRAWING}:sample_from_logits",
        "truncated_sums = _block_sums(weights)",
        "truncated_sums = _block_sums((shifted / temperature).exp())",
        mechanics("M1"),
    ),
    (
        "the model's log-probabilities are the drawn ones",
        f"{DECODING}:_finished_batches",
        "answer.model_logprobs.append(model_logprob)",
        "answer.model_logprobs.append(logprob)",
        mechanics("M1"),
    ),
    (
        "a token is drawn from the wrong end of its interval",
        f"{DRAWING}:_inverse_cdf_index",
        "index = (cumulative <= target[:, None]).sum(-1)",
        "index = (cumulative <= (target * 0.9)[:, None]).sum(-1)",
        (*expectations("E5"), *mechanics("M1")),
    ),
    (
        "numbers repeat from one place to the next",
        f"{DRAWING}:uniform_numbers",
        "counters = np.arange(1, count + 1, dtype=np.uint64)",
        "counters = np.ones(count, dtype=np.uint64)",
        (*expectations("E5"), *mechanics("M1")),
    ),
    (
        "SFT: each part is divided by its own tokens",
        "logratio.algorithms.sft:backpropagate",
        "loss = negative.sum() / num_tokens",
        "loss = negative.sum() / sum(len(row.target_ids) for row in rows)",
        mechanics("M2"),
    ),
    (
        "DPO: each part is divided by its own pairs",
        "logratio.algorithms.dpo:backpropagate",
        "loss = pair_losses(pair, config).sum() / batch_size",
        "loss = pair_losses(pair, config).mean()",
        mechanics("M2"),
    ),
    (
        "gradients of one part are lost before the next",
        "logratio.algorithms.sft:train_sft",
        (
            "                for indices, rows in policy.micro_batches(batch, "
            "max_tokens=config.loop.row_tokens):\n"
        ),
        (
            "                for indices, rows in policy.micro_batches(batch, "
            "max_tokens=config.loop.row_tokens):\n"
            "                    policy.model.zero_grad()\n"
        ),
        mechanics("M2"),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


@pytest.mark.slow
def test_the_same_checks_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
