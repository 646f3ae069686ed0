"""Pitfalls of the policy-gradient trainers and what they collect, each a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

TRAJECTORY = "algorithms/test_ppo.py::test_what_a_trajectory_of_an_answer_is"
COLLECTED = "exact/test_trainers.py::test_what_is_collected_is_what_the_product_collects"
SUMS = "algorithms/test_ppo.py::test_ppo_at_ratio_one_has_the_gradient_of_the_sums_written_out"
PARTS = "algorithms/test_ppo.py::test_reinforce_with_a_critic_and_lambda_one_is_the_return_less_the_value"
WHITENED = "exact/test_trainers.py::test_ppo_returns_are_advantages_before_whitening_and_values"
SIBLINGS = "exact/test_trainers.py::test_the_baseline_of_a_sequence_is_the_mean_of_its_siblings"
STALE = "algorithms/test_ppo.py::test_answers_of_another_policy_are_noticed"
WEIGHTED = "exact/test_trainers.py::test_the_mean_of_weighted_gradients_is_the_gradient_of_the_objective"
BANDIT = "algorithms/test_reinforce.py::test_"
BOOTSTRAP = "rollouts/test_collector.py::test_what_follows_an_answer_that_was_cut_off"
MUTANTS = (
    # --- what is collected -----------------------------------------------------------------------------
    Mutant(
        name="the score comes one token late",
        symbol="logratio.rollouts.trajectories:token_rewards",
        old="torch.where(last, scores[:, None].to(logprobs), zero)",
        new="torch.where(~mask & mask.roll(1, dims=1), scores[:, None].to(logprobs), zero)",
        checks=(TRAJECTORY, COLLECTED),
    ),
    Mutant(
        name="the score comes with every token",
        symbol="logratio.rollouts.trajectories:token_rewards",
        old="torch.where(last, scores[:, None].to(logprobs), zero)",
        new="torch.where(mask, scores[:, None].to(logprobs), zero)",
        checks=(TRAJECTORY, COLLECTED),
    ),
    Mutant(
        name="the coefficient of the KL in the reward is not applied",
        symbol="logratio.rollouts.trajectories:token_rewards",
        old="- kl_coefficient * kl_penalty",
        new="- kl_penalty",
        checks=(TRAJECTORY, COLLECTED),
    ),
    Mutant(
        name="the KL in the reward has the wrong sign",
        symbol="logratio.rollouts.trajectories:token_rewards",
        old="- kl_coefficient * kl_penalty",
        new="+ kl_coefficient * kl_penalty",
        checks=(TRAJECTORY, COLLECTED),
    ),
    Mutant(
        name="finished answers pay for a missing end",
        symbol="logratio.rollouts.collector:LanguageCollector._penalise_truncated",
        old='truncated = torch.tensor([answer.finish_reason == "length"',
        new='truncated = torch.tensor([answer.finish_reason != "length"',
        checks=(TRAJECTORY,),
    ),
    Mutant(
        name="the last token is followed by something",
        symbol="logratio.rollouts.trajectories:answer_trajectories",
        old="continues = followed | (last & bootstraps[:, None])",
        new="continues = mask",
        checks=(TRAJECTORY, COLLECTED),
    ),
    Mutant(
        name="traces run through the padding",
        symbol="logratio.rollouts.trajectories:answer_trajectories",
        old="traces=lam * followed.to(logprobs)",
        new="traces=lam * torch.ones_like(logprobs)",
        checks=(TRAJECTORY, COLLECTED),
    ),
    Mutant(
        name="an answer that was cut off is followed by nothing though it shall be",
        symbol="logratio.rollouts.trajectories:answer_trajectories",
        old="continues = followed | (last & bootstraps[:, None])",
        new="continues = followed",
        checks=(BOOTSTRAP,),
    ),
    Mutant(
        name="an answer that ended is bootstrapped as well",
        symbol="logratio.rollouts.collector:LanguageCollector._bootstraps",
        old='wanted and reason == "length"',
        new="wanted",
        checks=(BOOTSTRAP,),
    ),
    Mutant(
        name="the trace goes on behind an answer that was cut off",
        symbol="logratio.rollouts.trajectories:answer_trajectories",
        old="traces=lam * followed.to(logprobs)",
        new="traces=lam * continues.to(logprobs)",
        checks=(BOOTSTRAP,),
    ),
    Mutant(
        name="the value behind the last token is the one before it",
        symbol="logratio.rollouts.trajectories:answer_trajectories",
        old="next_values=torch.where(continues, values[:, 1:], zero)",
        new=("next_values=torch.where(continues, torch.where(last, values[:, :-1], values[:, 1:]), zero)"),
        checks=(BOOTSTRAP,),
    ),
    Mutant(
        name="the worst reward is sought among those that were cut off too",
        symbol="logratio.rollouts.reward_shaping:penalise_truncated",
        old="earned[~truncated].min()",
        new="earned.min()",
        checks=("rollouts/test_collector.py::test_a_cut_off_answer_earns_what_the_worst_that_ended_does",),
    ),
    Mutant(
        name="an answer is its own sibling",
        symbol="logratio.rollouts.collector:LanguageCollector._subtract_group_mean",
        old="return leave_one_out(scores, group_size=self.config.num_samples)",
        new="k = self.config.num_samples\n"
        "        return scores - scores.reshape(-1, k).mean(dim=1).repeat_interleave(k)",
        checks=("rollouts/test_collector.py::test_an_answer_may_earn_what_it_has_more_than_its_siblings",),
    ),
    Mutant(
        name="a monitored reward is learned from",
        symbol="logratio.rollouts.collector:LanguageCollector._reward_samples",
        old="earned, metrics = weighted_sum(samples, self.rewards)",
        new="earned, metrics = weighted_sum(samples, (*self.rewards, *self.monitored))",
        checks=("rollouts/test_collector.py::test_a_watched_reward_changes_nothing",),
    ),
    Mutant(
        name="beta is steered by the mean over tokens",
        symbol="logratio.rollouts.collector:LanguageCollector._kl_metrics",
        old='exact = torch.where(mask, now["kl"], 0.0).double().sum(dim=1)',
        new='exact = now["kl"][mask].double().mean()[None]',
        checks=("rollouts/test_collector.py::test_the_reported_kl_is_that_of_the_answers",),
    ),
    Mutant(
        name="the exact KL is of the reference to the policy",
        symbol="logratio.kernels.chunked_kl:_walk",
        old="policy.add(start, logits, logsumexp(logits), logits, logits - others)",
        new="policy.add(start, logits, logsumexp(logits), logits, others - logits)",
        checks=("kernels/test_chunked_kl.py::test_all_four_are_those_of_the_whole_softmax",),
    ),
    Mutant(
        name="a mean over the vocabulary keeps the normaliser of the first chunk",
        symbol="logratio.kernels.chunked_kl:_Softmax.ended",
        old="shares = (columns[:, 0] - log_normaliser).exp()",
        new="shares = (columns[:, 0] - columns[0, 0]).exp()",
        checks=("kernels/test_chunked_kl.py::test_all_four_are_those_of_the_whole_softmax",),
    ),
    Mutant(
        name="the weights of a local KL carry a gradient",
        symbol="logratio.objectives.kl:local_kl_loss",
        old="log_weights.detach().exp() * loss",
        new="log_weights.exp() * loss",
        checks=(
            "exact/test_trainers.py::test_the_local_kl_loss_has_the_gradient_with_the_states_held_fixed",
        ),
    ),
    Mutant(
        name="the critic's gradient takes the policy's share of the norm",
        symbol="logratio.training.loop:_clip_groups",
        old="return [rest, separate] if separate else [rest]",
        new="return [rest + separate]",
        checks=("training/test_loop.py::test_a_critic_with_its_own_rate_is_clipped_apart",),
    ),
    Mutant(
        name="the critic's own rate is not applied",
        symbol="logratio.training.loop:Session.optimizer_step",
        old='group["lr"] = rate * group["scale"]',
        new='group["lr"] = rate',
        checks=("training/test_loop.py::test_a_critic_learns_at_its_own_rate",),
    ),
    Mutant(
        name="the best checkpoint is deleted with the old ones",
        symbol="logratio.training.checkpointing:save_checkpoint",
        old="if best is None or older != checkpoint_path(directory, best):",
        new="if True:",
        checks=("training/test_loop.py::test_a_policy_that_runs_away_leaves_its_best_weights",),
    ),
    Mutant(
        name="a policy that runs away is left as it is",
        symbol="logratio.training.loop:Session.runaway",
        old="restore_weights(self.model, load_file(path / WEIGHTS))",
        new="load_file(path / WEIGHTS)",
        checks=("training/test_loop.py::test_a_policy_that_runs_away_leaves_its_best_weights",),
    ),
    Mutant(
        name="the signal counts a part with what stood before it",
        symbol="logratio.training.gradient_noise:GradientSNR.add_micro_batch",
        old="now if self._before is None else now - self._before",
        new="now",
        checks=("training/test_gradient_noise.py::test_the_ratio_is_that_of_the_definition",),
    ),
    Mutant(
        name="the signal's variance is that of a minibatch",
        symbol="logratio.training.gradient_noise:GradientSNR.signal_to_noise",
        old="spread / (len(self.micro_batches) - 1) / minibatches",
        new="spread / (len(self.micro_batches) - 1)",
        checks=("training/test_gradient_noise.py::test_the_ratio_is_that_of_the_definition",),
    ),
    Mutant(
        name="a reference that was trained is not noticed",
        symbol="logratio.rollouts.collector:LanguageCollector.reference_fingerprint",
        old="weights_fingerprint(self.reference.model, trainable=False)",
        new='""',
        checks=("algorithms/test_ppo.py::test_a_reference_that_changes_is_noticed",),
    ),
    Mutant(
        name="every update draws with the same seed",
        symbol="logratio.rollouts.collector:LanguageCollector._answer",
        old='f"{self.config.sampling_seed}:{step}"',
        new='f"{self.config.sampling_seed}"',
        checks=("algorithms/test_ppo.py::test_collecting_is_a_function_of_step_and_weights",),
    ),
    # --- the policy asked again ------------------------------------------------------------------------
    Mutant(
        name="a minibatch's groups are taken for the first ones",
        symbol="logratio.policies.actor_critic:LanguageActor.micro_batches",
        old="item_ids[group_index] * group_size + index",
        new="group_index * group_size + index",
        checks=(PARTS,),
    ),
    Mutant(
        name="rows are laid one token on",
        symbol="logratio.policies.actor_critic:LanguageActor.micro_batches",
        old="[sequence * time + token for",
        new="[sequence * time + (token + 1) % length for",
        checks=(SUMS, COLLECTED),
    ),
    # --- advantages and returns ------------------------------------------------------------------------
    Mutant(
        name="PPO: returns are made of whitened advantages",
        symbol="logratio.algorithms.ppo:estimate",
        old="    returns = advantages + rows.values\n"
        "    if config.whiten_advantages:\n"
        "        advantages = masked_whiten(advantages, rows.mask)\n",
        new="    if config.whiten_advantages:\n"
        "        advantages = masked_whiten(advantages, rows.mask)\n"
        "    returns = advantages + rows.values\n",
        checks=(WHITENED,),
    ),
    Mutant(
        name="PPO: whitening counts the padding",
        symbol="logratio.algorithms.ppo:estimate",
        old="masked_whiten(advantages, rows.mask)",
        new="masked_whiten(advantages, torch.ones_like(rows.mask))",
        checks=(WHITENED,),
    ),
    Mutant(
        name="PPO: the critic learns the rewards, not the returns",
        symbol="logratio.algorithms.ppo:estimate",
        old="returns = advantages + rows.values",
        new="returns = rows.rewards.clone()",
        checks=(WHITENED,),
    ),
    Mutant(
        name="REINFORCE: siblings are those of all prompts",
        symbol="logratio.algorithms.reinforce:_baseline",
        old="returns - leave_one_out(returns, group_size=rollout.group_size)",
        new="returns - leave_one_out(returns, group_size=len(returns))",
        checks=(SIBLINGS,),
    ),
    Mutant(
        name="REINFORCE: the baseline counts the sequence itself",
        symbol="logratio.algorithms.reinforce:_baseline",
        old="returns - leave_one_out(returns, group_size=rollout.group_size)",
        new="returns - group_centred(returns, group_size=rollout.group_size)",
        checks=(SIBLINGS,),
    ),
    Mutant(
        name="REINFORCE: every action is credited with the whole",
        symbol="logratio.algorithms.reinforce:estimate",
        old='if config.credit == "return" else returns',
        new="if config.credit else returns",
        checks=("exact/test_trainers.py::test_reward_to_go_leaves_out_what_came_before",),
    ),
    # --- ratios, weights and penalties -----------------------------------------------------------------
    Mutant(
        name="PPO: the ratio is to the policy as it moves",
        symbol="logratio.algorithms.ppo:row_losses",
        old="log_ratio = now.logprobs - targets.logprobs[at].to(now.logprobs)",
        new="log_ratio = now.logprobs - now.logprobs.detach()",
        checks=(STALE, "exact/test_trainers.py::test_ratios_are_to_the_policy_that_collected"),
    ),
    Mutant(
        name="PPO: the update's KL is that of the other direction",
        symbol="logratio.algorithms.ppo:row_losses",
        old="update_kl = k3(-log_ratio)",
        new="update_kl = k3(log_ratio)",
        checks=(
            "exact/test_trainers.py"
            "::test_the_mean_of_the_update_kl_is_the_divergence_of_the_old_policy_from_the_new",
        ),
    ),
    Mutant(
        name="PPO: the penalty's coefficient is adapted at each minibatch",
        symbol="logratio.algorithms.ppo:train_ppo",
        old="            update.optimizer_step()\n",
        new=(
            "            update.optimizer_step()\n"
            "            if kl_penalty:\n"
            "                kl_penalty.update(update_kl)\n"
        ),
        checks=("exact/test_trainers.py::test_the_penalty_is_adapted_once_an_update",),
    ),
    Mutant(
        name="REINFORCE: no weights though the policy has moved",
        symbol="logratio.algorithms.reinforce:importance_log_weights",
        old='if config.weights == "none":',
        new='if config.weights != "token":',
        checks=(WEIGHTED,),
    ),
    Mutant(
        name="REINFORCE: weights are gathered over a place in time, not a sequence",
        symbol="logratio.algorithms.reinforce:row_losses",
        old="importance_log_weights(log_ratio, at // time, config)",
        new="importance_log_weights(log_ratio, at % time, config)",
        checks=(WEIGHTED,),
    ),
    Mutant(
        name="REINFORCE: tokens are weighed alone",
        symbol="logratio.algorithms.reinforce:importance_log_weights",
        old='if config.weights == "sequence":',
        new="if config.weights is None:",
        checks=(WEIGHTED,),
    ),
    Mutant(
        name="REINFORCE: a later minibatch is weighed by the old policy over the new",
        symbol="logratio.algorithms.reinforce:row_losses",
        old="log_ratio = (now.logprobs - targets.logprobs[at].to(now.logprobs)).detach()",
        new="log_ratio = (targets.logprobs[at].to(now.logprobs) - now.logprobs).detach()",
        checks=(WEIGHTED, BANDIT + "a_later_minibatch_has_the_gradient_of_where_the_policy_has_gone"),
    ),
    Mutant(
        name="REINFORCE: weights are not cut",
        symbol="logratio.algorithms.reinforce:importance_log_weights",
        old="return truncate_weights(log_ratio, ceiling=config.weight_ceiling) if config.weight_ceiling else",
        new="return",
        checks=(
            BANDIT + "weights_that_are_left_out_or_cut_have_the_gradient_that_the_sum_says[settings1-1.1]",
        ),
    ),
    Mutant(
        name="REINFORCE: what the sequence has more than the greedy answer is taken off",
        symbol="logratio.algorithms.reinforce:_baseline",
        old="return returns - greedy_baseline(returns, rollout.greedy_returns)",
        new="return greedy_baseline(returns, rollout.greedy_returns)",
        checks=(BANDIT + "what_a_baseline_leaves_of_the_expected_gradient[greedy-1-2-1.0]",),
    ),
    Mutant(
        name="REINFORCE: the batch's mean leaves the sequence out",
        symbol="logratio.algorithms.reinforce:_baseline",
        old="return returns.mean().expand_as(returns)",
        new="return (returns.sum() - returns) / (len(returns) - 1)",
        checks=(BANDIT + "what_a_baseline_leaves_of_the_expected_gradient[batch-mean-1-2-0.5]",),
    ),
    Mutant(
        name="REINFORCE: the critic's loss has no weight",
        symbol="logratio.algorithms.reinforce:row_losses",
        old='loss = loss + config.value_coefficient * parts["value_loss"]',
        new='loss = loss + parts["value_loss"]',
        checks=(BANDIT + "the_critic_moves_towards_the_mean_reward",),
    ),
    # --- what a row counts -----------------------------------------------------------------------------
    Mutant(
        name="a minibatch's rows are divided by the whole batch",
        symbol="logratio.training.on_policy:_weights_of",
        old="float((lengths > 0).sum())",
        new="float(len(lengths))",
        checks=(PARTS,),
    ),
    Mutant(
        name="rows are counted though they are of another minibatch",
        symbol="logratio.training.on_policy:row_weights",
        old="_weights_of(mask & chosen[rollout.item_of_row.numpy(force=True)], rollout, reduction)",
        new="_weights_of(np.ones_like(mask), rollout, reduction)",
        checks=(PARTS,),
    ),
    Mutant(
        name="sums over a sequence become means",
        symbol="logratio.training.on_policy:_weights_of",
        old='if reduction == "sequences":',
        new="if reduction:",
        checks=(SUMS, PARTS),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
