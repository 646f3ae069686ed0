"""Faults that other projects have or had, built in on purpose: objectives, the reference, evaluation.

A name in brackets is the project in which the fault was found.
"""

import pytest

from mutants.harness import Mutant, survivors, unsound

ADVANTAGES, MASKED = "logratio.objectives.advantages", "logratio.objectives.masked"
KL, PPO = "logratio.objectives.kl", "logratio.objectives.ppo"
DPO, SFT = "logratio.algorithms.dpo", "logratio.algorithms.sft"
DIVERGENCE, WIN_RATE = "logratio.evaluation.policy_divergence", "logratio.evaluation.win_rate"
LANGUAGE = "logratio.policies.language"
INVARIANTS, REFERENCE = "logratio.training.invariants", "logratio.training.reference"

AFTER_SFT = "algorithms/test_dpo.py::test_loss_is_ln_2_directly_after_sft_in_the_same_process"
LEARNS = "algorithms/test_dpo.py::test_dpo_learns_the_preference"
REFUSED = "algorithms/test_dpo.py::test_contradictory_settings_are_refused"


def of(module: str, test: str) -> str:
    return f"objectives/test_{module}.py::{test}"


def distance(test: str) -> str:
    return f"evaluation/test_policy_divergence.py::{test}"


# What is wrong | symbol | text | what stands there instead | tests that must fail
OF_ADVANTAGES: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "advantages are divided by their variance (garage)",
        f"{MASKED}:masked_whiten",
        "torch.where(variance > 0, variance, torch.ones_like(variance)).sqrt()",
        "torch.where(variance > 0, variance, torch.ones_like(variance))",
        (
            of("masked", "test_whiten_hand_worked"),
            of("masked", "test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding"),
        ),
    ),
    (
        "whitened advantages keep their mean (torchtune)",
        f"{MASKED}:masked_whiten",
        "white if shift_mean else white + mean",
        "white + mean if shift_mean else white",
        (
            of("masked", "test_whiten_hand_worked"),
            of("masked", "test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding"),
        ),
    ),
    (
        "a group's deviation divides by k − 1",
        f"{ADVANTAGES}:group_centred",
        "std = deviation.square().mean(dim=1, keepdim=True).sqrt()",
        "std = deviation.std(dim=1, keepdim=True)",
        (of("advantages", "test_group_centred_hand_worked"),),
    ),
    (
        "a group of equal rewards is 0/0",
        f"{ADVANTAGES}:group_centred",
        "(deviation / torch.where(std > 0, std, torch.ones_like(std))).flatten()",
        "(deviation / std).flatten()",
        (of("advantages", "test_equal_rewards_get_exactly_0"),),
    ),
    (
        "a time limit counts as death (CleanRL)",
        f"{ADVANTAGES}:gae",
        "differences = rewards + weighted(discounts, next_values) - values",
        "differences = rewards + weighted(discounts * (traces != 0), next_values) - values",
        (
            of("advantages", "test_gae_hand_worked"),
            of("advantages", "test_cut_off_episodes_give_the_numbers_of_tianshou"),
            "exact/test_control.py::test_a_time_limit_does_not_change_what_an_endless_reward_is_worth",
        ),
    ),
    (
        "the value of the next episode's first state counts behind the end (Spinning Up)",
        f"{ADVANTAGES}:gae",
        "differences = rewards + weighted(discounts, next_values) - values",
        "differences = rewards + discounts.max() * next_values.nan_to_num(0.5) - values",
        (
            of("advantages", "test_gae_hand_worked"),
            of("advantages", "test_an_episode_that_ends_inside_gives_the_numbers_of_rlax"),
        ),
    ),
    (
        "advantages leak from one episode into the one before (skrl)",
        f"{ADVANTAGES}:gae",
        "return discounted_sum(differences, discounts * traces)",
        "return discounted_sum(differences, discounts * traces.max())",
        (of("advantages", "test_cut_off_episodes_give_the_numbers_of_tianshou"),),
    ),
    (
        "the end is read one row too early (rlevo)",
        f"{ADVANTAGES}:gae",
        "return discounted_sum(differences, discounts * traces)",
        "return discounted_sum(differences, discounts.roll(-1, dims=1) * traces)",
        (
            of("advantages", "test_gae_hand_worked"),
            of("advantages", "test_an_episode_that_ends_inside_gives_the_numbers_of_rlax"),
        ),
    ),
    (
        "the last value is counted twice (rl-triton)",
        f"{ADVANTAGES}:gae",
        "return discounted_sum(differences, discounts * traces)",
        "last = weighted(discounts * traces, next_values)[:, -1:]\n"
        "    differences = torch.cat([differences[:, :-1], differences[:, -1:] + last], dim=1)\n"
        "    return discounted_sum(differences, discounts * traces)",
        (of("advantages", "test_the_ends_of_lambda_and_a_shift_of_the_critic"),),
    ),
    (
        "the last advantage of a row is 0 (PufferLib)",
        f"{ADVANTAGES}:gae",
        "return discounted_sum(differences, discounts * traces)",
        "differences = torch.cat([differences[:, :-1], 0 * differences[:, -1:]], dim=1)\n"
        "    return discounted_sum(differences, discounts * traces)",
        (of("advantages", "test_gae_hand_worked"), of("advantages", "test_gae_gives_the_numbers_of_rlax")),
    ),
    (
        "the score stands one place behind the end token (TRL)",
        f"{ADVANTAGES}:discounted_returns",
        "return discounted_sum(rewards, discounts)",
        "return discounted_sum(torch.cat([0 * rewards[:, :1], rewards[:, :-1]], dim=1), discounts)",
        (
            of("advantages", "test_returns_hand_worked"),
            of("policy_gradient", "test_return_baseline_and_reward_to_go_give_the_gradient"),
        ),
    ),
    (
        "the KL in the reward is k3",
        f"{KL}:k1",
        "    return log_ratio\n",
        "    return k3(log_ratio)\n",
        (
            of("kl", "test_what_the_gradients_of_the_estimates_are"),
            of("kl", "test_two_gaussians_by_quadrature"),
            "exact/test_expectations.py::test_every_row_passes[E7]",
        ),
    ),
)

OF_PPO: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "the dual clip is on without being asked for (verl)",
        f"{PPO}:clip_active",
        "    _check_dual(dual_clip)\n    ratio",
        "    dual_clip = dual_clip or 3.0\n    ratio",
        (of("ppo", "test_clip_in_every_region"),),
    ),
    (
        "a clip fraction counts samples whose gradient is left as it is (CleanRL)",
        f"{PPO}:clip_active",
        "active = ((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))",
        "active = (ratio > high) | (ratio < low)",
        (of("ppo", "test_clip_in_every_region"),),
    ),
    (
        "the value loss is cut off where it is large, and with it its gradient (RLlib)",
        f"{PPO}:value_loss",
        "return torch.maximum(error, (near - returns).square()) / 2",
        "return error.clamp(max=clip_range) / 2 + 0 * near",
        (of("ppo", "test_value_loss_in_every_region"),),
    ),
    (
        "a clipped value has no gradient, however wrong it is (Stable-Baselines3)",
        f"{PPO}:value_loss",
        "return torch.maximum(error, (near - returns).square()) / 2",
        "return (near - returns).square() / 2",
        (of("ppo", "test_value_loss_in_every_region"),),
    ),
    (
        "β falls once a minibatch, four times an update (TorchRL)",
        f"{PPO}:AdaptivePenalty.update",
        "self.beta = max(self.floor, self.beta / 2)",
        "self.beta = max(self.floor, self.beta / 2**4)",
        (of("ppo", "test_adaptive_penalty"),),
    ),
    (
        "β falls to 0 and never comes back (TorchRL)",
        f"{PPO}:AdaptivePenalty.update",
        "self.beta = max(self.floor, self.beta / 2)",
        "self.beta = self.beta / 2",
        (
            of("ppo", "test_adaptive_penalty"),
            of("ppo", "test_an_adaptive_penalty_is_not_lost_to_small_updates"),
        ),
    ),
    (
        "β rises by half above twice the target, not to the double above 1.5 (RLlib)",
        f"{PPO}:AdaptivePenalty.update",
        "elif update_kl > 1.5 * self.target:\n            self.beta = min(self.ceiling, self.beta * 2)",
        "elif update_kl > 2.0 * self.target:\n            self.beta = min(self.ceiling, self.beta * 1.5)",
        (of("ppo", "test_adaptive_penalty"),),
    ),
    (
        "the penalty rewards distance (RAGEN)",
        f"{PPO}:penalty_loss",
        "return beta * update_kl - log_ratio.exp()",
        "return -beta * update_kl - log_ratio.exp()",
        (of("ppo", "test_penalty_hand_worked"), of("ppo", "test_the_penalty_holds_the_policy_near")),
    ),
    (
        "the coefficient of the KL ignores how many sequences were measured (verl)",
        f"{PPO}:ReferenceKLController.update",
        "self.coefficient *= 1.0 + error * num_sequences / self.horizon",
        "self.coefficient *= 1.0 + error * min(num_sequences, 1) / self.horizon",
        (of("ppo", "test_reference_controller"),),
    ),
    (
        "one row of values is broadcast against a column (RLinf)",
        PPO,
        'Samples = Float[Tensor, "*samples"]',
        'Samples = Float[Tensor, "..."]',
        (of("ppo", "test_mixed_shapes_are_refused"),),
    ),
)

# The reference as the model was loaded: whatever is computed without a gradient asks a copy made at first.
AS_LOADED = (
    "super().__init__(model, tokenizer, layout=layout)\n"
    '        self.trained, self.loaded = model, __import__("copy").deepcopy(model)\n'
    "        LanguagePolicy.model = property(\n"
    "            lambda own: own.trained if torch.is_grad_enabled() else own.loaded,\n"
    "            lambda own, value: None,\n"
    "        )"
)
OF_TRAINING: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "the reference is the model that was loaded, not the one after fine-tuning (TRL)",
        f"{LANGUAGE}:LanguagePolicy.__init__",
        "super().__init__(model, tokenizer, layout=layout)",
        AS_LOADED,
        (AFTER_SFT,),
    ),
    (
        "the reference is half as precise as the policy (eric-mitchell/DPO)",
        f"{REFERENCE}:compute_logprobs",
        "values[[batch[place] for place in part]] = result.cpu()",
        "values[[batch[place] for place in part]] = result.cpu().bfloat16().to(values.dtype)",
        (AFTER_SFT,),
    ),
    (
        "the reference kept with a run may be of other data",
        f"{REFERENCE}:_read",
        "known = (stream.metadata() or {}).items() >= identity.items()",
        "known = bool(stream.metadata())",
        ("training/test_checkpointing.py::test_other_data_or_settings_are_not_resumed",),
    ),
    (
        "the policy is its own reference at every step, so that the loss stands still (TRL)",
        f"{DPO}:gather_pairs",
        "    before = reference.to(policy)\n",
        "    before = policy.detach()\n",
        (LEARNS,),
    ),
    (
        "label smoothing is taken and ignored by losses without it (TRL, Axolotl)",
        f"{DPO}:DPOConfig.__post_init__",
        "if self.label_smoothing and self.loss not in SMOOTHED:",
        "if self.label_smoothing and self.loss not in (*SMOOTHED, self.loss):",
        (REFUSED,),
    ),
    (
        "only the preferred answer is trained on",
        f"{DPO}:gather_pairs",
        "policy[:, 0], policy[:, 1], before",
        "policy[:, 0], policy[:, 1].detach(), before",
        (
            "algorithms/test_dpo.py::test_the_first_gradient_is_minus_half_beta_times_the_difference_of_scores",
        ),
    ),
    (
        "SFT weighs answers equally, not tokens",
        f"{SFT}:backpropagate",
        "loss = negative.sum() / num_tokens",
        "loss = (negative / torch.cat([torch.bincount(row.answer_index) for row in rows])).mean()",
        ("algorithms/test_sft.py::test_the_first_loss_is_the_mean_over_answer_tokens",),
    ),
    (
        "an answer without an end token passes the invariant",
        "logratio.training.end_tokens:check_end_token_carries_loss",
        "if is_finished and (count != 1 or ends[0][1] != len(answer)):",
        "if is_finished and count > 1 + len(answer):",
        ("invariants/test_invariants.py::test_a_finished_answer_ends_in_one_end_token",),
    ),
    (
        "a negative exact KL passes the invariant",
        f"{INVARIANTS}:check_exact_kl_not_negative",
        "    if not value >= -tolerance:",
        "    if not abs(value) >= 0:",
        ("invariants/test_invariants.py::test_a_negative_exact_kl",),
    ),
    (
        "policy and reference may be one model",
        f"{INVARIANTS}:check_reference_is_separate",
        "        if other is not None:",
        "        if other is not None and tensor.requires_grad:",
        ("invariants/test_invariants.py::test_shared_storage_is_found",),
    ),
)

OF_EVALUATION: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "the measured KL is of the reference to the policy",
        f"{DIVERGENCE}:_token_values",
        "kl.append(exact_kl(p, q))",
        "kl.append(exact_kl(q, p))",
        (
            distance("test_the_direction_is_from_the_policy"),
            distance("test_the_mean_over_all_answers_is_the_kl_of_sequences"),
        ),
    ),
    (
        "the measured KL leaves the end token out",
        f"{DIVERGENCE}:_token_values",
        "kl.append(exact_kl(p, q))",
        "kl.append(exact_kl(p, q) * (chosen != 0))",
        (distance("test_the_end_token_counts"),),
    ),
    (
        "ties are losses",
        f"{WIN_RATE}:win_rate",
        "wins = counts[0] + counts[1] / 2",
        "wins = counts[0] + 0 * counts[1]",
        ("evaluation/test_win_rate.py::test_ties_are_half",),
    ),
    (
        "the longer answer wins, and nobody looks",
        "logratio.evaluation.length_control:length_controlled_win_rate",
        "weights, covariance = fit_logistic(design, won)",
        "weights, covariance = fit_logistic(design * np.array([1.0, 0.0]), won)",
        ("evaluation/test_length_control.py::test_wins_that_length_explains_are_not_counted",),
    ),
)
PITFALLS = (*OF_ADVANTAGES, *OF_PPO, *OF_TRAINING, *OF_EVALUATION)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_fault_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


@pytest.mark.slow
def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
