"""Pitfalls of packing, training and resuming, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

PACKING = "kernels/test_packing.py::test_packed_equals_one_answer_at_a_time_to_1e_10"
MUTANTS = (
    Mutant(
        name="fine-tuning divides a part by its own count",
        symbol="logratio.algorithms.sft:backpropagate",
        old="loss = negative.sum() / num_tokens",
        new="loss = negative.mean() / 4",
        checks=("invariants/test_invariants.py::test_fine_tuning_in_parts_adds_up_to_the_batch",),
    ),
    Mutant(
        name="positions go on from the sibling answer",
        symbol="logratio.kernels.packing:pack",
        old="positions += range(len(group.prompt), len(group.prompt) + len(answer) - 1)",
        new="positions += range(len(tokens) - start - len(answer) + 1, len(tokens) - start)",
        checks=(PACKING,),
    ),
    Mutant(
        name="answers see their siblings",
        symbol="logratio.kernels.packed_attention:group_mask",
        old="mask[first:end, : span.prompt_end - span.start] = True",
        new="mask[first:end, : max(first, span.prompt_end - span.start)] = True",
        checks=(PACKING, "kernels/test_packing.py::test_an_answer_does_not_see_its_sibling"),
    ),
    Mutant(
        name="the first token of a later answer is predicted from the answer before it",
        symbol="logratio.kernels.packing:pack",
        old="source_positions += [prompt_end - 1, *range(first, len(tokens))]",
        new="source_positions += [first - 1, *range(first, len(tokens))]",
        checks=(PACKING,),
    ),
    Mutant(
        name="off by one: a token predicts itself",
        symbol="logratio.kernels.packing:pack",
        old="target_ids += answer",
        new="target_ids += (*answer[1:], answer[-1])",
        checks=(PACKING,),
    ),
    Mutant(
        name="the end token carries no loss",
        symbol="logratio.kernels.packing:pack",
        old="            answer_index += [num_answers] * len(answer)",
        new=(
            "            answer_index += [num_answers] * len(answer)\n"
            "            target_ids, answer_index, source_positions = target_ids[:-1], "
            "answer_index[:-1], source_positions[:-1]"
        ),
        checks=(PACKING,),
    ),
    Mutant(
        name="a chunk's logsumexp is lost",
        symbol="logratio.kernels.chunked_lm_head:TokenLogprobs.forward",
        old="logsumexp = torch.logaddexp(logsumexp, logit_chunks.logsumexp(logits))",
        new="logsumexp = logit_chunks.logsumexp(logits)",
        checks=(
            "kernels/test_chunked_lm_head.py::test_every_chunk_size_gives_the_whole_softmax_and_its_gradient",
        ),
    ),
    Mutant(
        name="the gradient of the target's own logit is lost",
        symbol="logratio.kernels.chunked_lm_head:head_gradients",
        old="logits[target_ids[inside] - start, rows[inside]] += grad_logprob[inside]",
        new="logits[target_ids[inside] - start, rows[inside]] += 0.0",
        checks=("kernels/test_chunked_lm_head.py::test_gradcheck",),
    ),
    Mutant(
        name="SFT: each part is divided by its own tokens",
        symbol="logratio.algorithms.sft:backpropagate",
        old="loss = negative.sum() / num_tokens",
        new="loss = negative.sum() / sum(len(row.target_ids) for row in rows)",
        checks=("algorithms/test_sft.py::test_unequal_lengths_accumulate_to_the_batch",),
    ),
    Mutant(
        name="DPO: each part is divided by its own pairs",
        symbol="logratio.algorithms.dpo:backpropagate",
        old="loss = pair_losses(pair, config).sum() / batch_size",
        new="loss = pair_losses(pair, config).mean()",
        checks=("algorithms/test_dpo.py::test_a_batch_of_8_equals_8_accumulated_equals_packed",),
    ),
    Mutant(
        name="DPO: chosen and rejected are exchanged",
        symbol="logratio.algorithms.dpo:gather_pairs",
        old="*(policy[:, 0], policy[:, 1], before",
        new="*(policy[:, 1], policy[:, 0], before",
        checks=("algorithms/test_dpo.py::test_dpo_learns_the_preference",),
    ),
    Mutant(
        name="an epoch counts full batches",
        symbol="logratio.training.loop:epochs_done",
        old="return epochs_passed + offset * batch_size / num_examples",
        new="return num_steps * batch_size / num_examples",
        checks=("training/test_loop_order.py::test_epochs_are_examples_seen_over_their_number",),
    ),
    Mutant(
        name="DPO: a tie counts as a win",
        symbol="logratio.algorithms.dpo:group_pairs",
        old="[TIE if pair.comparison.tie else 1.0 for pair in pairs]",
        new="[1.0 for pair in pairs]",
        checks=("algorithms/test_dpo_ties.py::test_pairs_keep_their_ties",),
    ),
    Mutant(
        name="DPO: the other order of a tie keeps the lengths of the first",
        symbol="logratio.algorithms.dpo:PairLogprobs.swap",
        old="*(self.rejected_lengths, self.chosen_lengths, 1 - self.preference),",
        new="*(self.chosen_lengths, self.rejected_lengths, 1 - self.preference),",
        checks=("algorithms/test_dpo_ties.py::test_the_loss_of_a_tie_is_the_mean_of_both_orders",),
    ),
    Mutant(
        name="DPO: ties count in the accuracy",
        symbol="logratio.algorithms.dpo:summarise",
        old="float(value[decided].double().mean()) if decided.any()",
        new="float(value.double().mean()) if decided.any()",
        checks=("algorithms/test_dpo_ties.py::test_metrics_are_of_decided_pairs",),
    ),
    Mutant(
        name="the labels of a batch are those of the first pairs of the data",
        symbol="logratio.algorithms.dpo:train_dpo",
        old="labels[ids], config",
        new="labels[: len(ids)], config",
        checks=("algorithms/test_dpo_ties.py::test_trained_on_ties_alone_a_policy_stays_at_its_reference",),
    ),
    Mutant(
        name="the configured loss is ignored",
        symbol="logratio.algorithms.dpo:ordered_losses",
        old='return dpo.ipo_loss(*policy_and_reference, tau=beta, normalise="sum")',
        new="return dpo.dpo_loss(*policy_and_reference, beta=beta)",
        checks=("algorithms/test_dpo.py::test_the_configured_loss_is_the_one_computed",),
    ),
    Mutant(
        name="label smoothing is ignored",
        symbol="logratio.algorithms.dpo:ordered_losses",
        old="return dpo.dpo_loss(*policy_and_reference, beta=beta, label_smoothing=smoothing)",
        new="return dpo.dpo_loss(*policy_and_reference, beta=beta)",
        checks=("algorithms/test_dpo.py::test_the_configured_loss_is_the_one_computed",),
    ),
    Mutant(
        name="a resumed run is rendered with today's date",
        symbol="logratio.recipes.run_identity:as_of_beginning",
        old="run.rendered_at() if resume else datetime.now()",
        new="datetime.now()",
        checks=("recipes/test_run_identity.py::test_a_run_goes_on_on_another_day",),
    ),
    Mutant(
        name="a reward that was edited is resumed as if it were the same",
        symbol="logratio.recipes.run_identity:settle_rewards",
        old="for what, value in one.reward.identity().items():",
        new="for what, value in {}.items():",
        checks=("recipes/test_run_identity.py::test_a_reward_that_was_changed_is_refused_by_name",),
    ),
    Mutant(
        name="other tokens of the same data are taken for the same",
        symbol="logratio.recipes.run_identity:settle_tokens",
        old="run.add_identity(tokens_sha256=hash_groups(groups))",
        new="hash_groups(groups)",
        checks=("recipes/test_run_identity.py::test_other_tokens_are_refused_by_name",),
    ),
    Mutant(
        name="the reference is computed anew on a resume",
        symbol="logratio.training.reference:reference_logprobs",
        old="if kept is not None:",
        new="if kept is not None and len(kept) < 0:",
        checks=("training/test_checkpointing.py::test_a_resumed_run_is_the_run_never_stopped",),
    ),
    Mutant(
        name="the optimiser's moments are not restored",
        symbol="logratio.training.checkpointing:restore",
        old="    restore_optimizer(optimizer, load_file(path / OPTIMIZER))\n",
        new="",
        checks=(
            "training/test_checkpointing.py::test_a_resumed_run_is_the_run_never_stopped",
            "training/test_checkpointing.py::test_restored_state_takes_the_same_next_step",
        ),
    ),
    Mutant(
        name="a resumed run begins the data anew",
        symbol="logratio.training.loop:Session.batch",
        old="return batch_at(step, self.num_examples",
        new="return batch_at(step - self._checkpoint_at, self.num_examples",
        checks=("training/test_checkpointing.py::test_a_resumed_run_is_the_run_never_stopped",),
    ),
    Mutant(
        name="a run that ended is made longer with an optimiser that was not kept",
        symbol="logratio.training.loop:Session.__enter__",
        old="if 0 < self.step < self.num_steps and not self.optimizer.state:",
        new="if 0 < self.step < self.num_steps and not self.optimizer:",
        checks=("training/test_checkpointing.py::test_nothing_goes_on_from_the_last_update",),
    ),
    Mutant(
        name="checksums are not looked at",
        symbol="logratio.training.checkpointing:restore",
        old="if not file.is_file() or hash_file(file) != expected:",
        new="if not file.is_file():",
        checks=("training/test_checkpointing.py::test_a_damaged_checkpoint_is_passed_over_and_said_so",),
    ),
    Mutant(
        name="a loss that is not finite still moves the weights",
        symbol="logratio.training.invariants:check_loss_is_finite",
        old="if not math.isfinite(value):",
        new="if value is None:",
        checks=("invariants/test_invariants.py::test_a_loss_that_is_not_finite_stops_before_the_update",),
    ),
    Mutant(
        name="weights decay on norms",
        symbol="logratio.training.optimizer:build_optimizer",
        old="parameter.ndim < 2 or id(parameter) in embeddings",
        new="id(parameter) in embeddings",
        checks=("training/test_optimizer.py::test_norms_biases_and_embeddings_are_not_decayed",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
