"""The pitfalls of advantages and PPO, each built in on purpose: the unit tests and the checks must notice."""

import pytest

from mutants.harness import Mutant, survivors, unsound

ADVANTAGES, MASKED = "logratio.objectives.advantages", "logratio.objectives.masked"
POLICY_GRADIENT, PPO = "logratio.objectives.policy_gradient", "logratio.objectives.ppo"
DPO = "logratio.objectives.dpo"
IN_FILES = {"G": "advantages", "P": "proximal", "D": "preferences"}


def of(module: str, test: str) -> str:
    return f"objectives/test_{module}.py::{test}"


def check(name: str) -> str:
    return f"exact/test_{IN_FILES[name[0]]}.py::test_every_row_holds[{name}]"


# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "the trace forgets the discount",
        f"{ADVANTAGES}:gae",
        "discounted_sum(differences, discounts * traces)",
        "discounted_sum(differences, traces)",
        (of("advantages", "test_gae_hand_worked"), check("G1")),
    ),
    (
        "the trace is the discount alone",
        f"{ADVANTAGES}:gae",
        "discounted_sum(differences, discounts * traces)",
        "discounted_sum(differences, discounts)",
        (of("advantages", "test_gae_hand_worked"), check("G1"), check("G3")),
    ),
    (
        "the value is not taken from the reward",
        f"{ADVANTAGES}:gae",
        "weighted(discounts, next_values) - values",
        "weighted(discounts, next_values)",
        (of("advantages", "test_gae_hand_worked"), check("G1"), check("G2"), check("G3")),
    ),
    (
        "the next value is not discounted",
        f"{ADVANTAGES}:gae",
        "rewards + weighted(discounts, next_values) - values",
        "rewards + weighted((discounts > 0).to(discounts.dtype), next_values) - values",
        (of("advantages", "test_gae_hand_worked"), check("G1"), check("G2")),
    ),
    (
        "a group of equal rewards keeps the rounding of its mean",
        f"{ADVANTAGES}:_groups",
        "return groups - groups.min(dim=1, keepdim=True).values",
        "return groups",
        (of("advantages", "test_equal_rewards_get_exactly_0"),),
    ),
    (
        "a group's deviation is never divided by",
        f"{ADVANTAGES}:group_centred",
        "    if not divide_by_std:\n",
        "    if divide_by_std is not None:\n",
        (of("advantages", "test_group_centred_hand_worked"),),
    ),
    (
        "gradients flow through the advantages of the policy gradient",
        f"{POLICY_GRADIENT}:reinforce_loss",
        "return -weighted.detach() * logprobs",
        "return -weighted * logprobs",
        (of("policy_gradient", "test_hand_worked"),),
    ),
    (
        "the greedy answer's reward is the one that counts",
        f"{POLICY_GRADIENT}:greedy_baseline",
        "return rewards - greedy_rewards",
        "return greedy_rewards - rewards",
        (of("policy_gradient", "test_greedy_baseline"),),
    ),
    (
        "the two clip ranges are exchanged",
        f"{PPO}:_bounds",
        "return 1.0 - clip_range, 1.0 + high",
        "return 1.0 - high, 1.0 + clip_range",
        (of("ppo", "test_clip_in_every_region"), check("P2")),
    ),
    (
        "the logarithm of the ratio is clipped",
        f"{PPO}:clip_loss",
        "bound = ratio.detach().clamp(low, high)",
        "bound = log_ratio.detach().clamp(low - 1, high - 1).exp()",
        (of("ppo", "test_clip_in_every_region"), check("P2")),
    ),
    (
        "the ratio is clipped with no regard to the sign of the advantage",
        f"{PPO}:clip_loss",
        "return -torch.where(clipped, bound, ratio) * advantages",
        "return -ratio.clamp(low, high) * advantages",
        (of("ppo", "test_clip_in_every_region"), check("P2"), check("P7")),
    ),
    (
        "the dual clip holds for good actions too",
        f"{PPO}:clip_loss",
        "bound = torch.where(advantages < 0, ratio.detach().clamp(low, dual_clip), bound)",
        "bound = ratio.detach().clamp(low, dual_clip)",
        (of("ppo", "test_clip_in_every_region"), check("P2")),
    ),
    (
        "the clip fraction looks at good actions only",
        f"{PPO}:clip_active",
        "((advantages > 0) & (ratio > high)) | ((advantages < 0) & (ratio < low))",
        "(advantages > 0) & (ratio > high)",
        (of("ppo", "test_clip_in_every_region"), check("P2"), check("P7")),
    ),
    (
        "the clip fraction forgets the dual clip",
        f"{PPO}:clip_active",
        "active | ((advantages < 0) & (ratio > dual_clip))",
        "active",
        (of("ppo", "test_clip_in_every_region"), check("P2")),
    ),
    (
        "a clipped ratio that overflows makes the gradient NaN",
        f"{PPO}:clip_loss",
        "torch.where(clipped, log_ratio.detach(), log_ratio)",
        "torch.where(clipped, log_ratio, log_ratio)",
        (of("ppo", "test_a_clipped_ratio_beyond_the_number_format_has_no_gradient"),),
    ),
    (
        "gradients flow through the advantages of the clip",
        f"{PPO}:clip_loss",
        "    advantages = advantages.detach()\n",
        "",
        (of("ppo", "test_no_gradient_flows_through_advantages_returns_and_old_values"),),
    ),
    (
        "the penalised surrogate is of the logarithm",
        f"{PPO}:penalty_loss",
        "return beta * update_kl - log_ratio.exp() * advantages.detach()",
        "return beta * update_kl - log_ratio * advantages.detach()",
        (of("ppo", "test_penalty_hand_worked"), check("P7")),
    ),
    (
        "the penalty has no strength",
        f"{PPO}:penalty_loss",
        "return beta * update_kl -",
        "return update_kl -",
        (of("ppo", "test_penalty_hand_worked"), check("P7")),
    ),
    (
        "the value loss is not halved",
        f"{PPO}:value_loss",
        "return error / 2",
        "return error",
        (of("ppo", "test_value_loss_in_every_region"), check("P3")),
    ),
    (
        "the value is clipped about 0 and not about its old value",
        f"{PPO}:value_loss",
        "near = old + (values - old).clamp(-clip_range, clip_range)",
        "near = values.clamp(-clip_range, clip_range)",
        (of("ppo", "test_value_loss_in_every_region"), check("P3")),
    ),
    (
        "the value clip takes the smaller error",
        f"{PPO}:value_loss",
        "return torch.maximum(error, (near",
        "return torch.minimum(error, (near",
        (of("ppo", "test_value_loss_in_every_region"), check("P3")),
    ),
    (
        "gradients flow through the critic's targets",
        f"{PPO}:value_loss",
        "    returns = returns.detach()\n",
        "",
        (of("ppo", "test_no_gradient_flows_through_advantages_returns_and_old_values"),),
    ),
    (
        "gradients flow through the old values",
        f"{PPO}:value_loss",
        "old = old_values.detach()",
        "old = old_values",
        (of("ppo", "test_no_gradient_flows_through_advantages_returns_and_old_values"),),
    ),
    (
        "β falls where it should rise",
        f"{PPO}:AdaptivePenalty.update",
        "if update_kl < self.target / 1.5:",
        "if update_kl > 1.5 * self.target:",
        (of("ppo", "test_adaptive_penalty"), check("P3")),
    ),
    (
        "β has no ceiling",
        f"{PPO}:AdaptivePenalty.update",
        "self.beta = min(self.ceiling, self.beta * 2)",
        "self.beta = self.beta * 2",
        (
            of("ppo", "test_adaptive_penalty"),
            of("ppo", "test_an_adaptive_penalty_is_not_lost_to_small_updates"),
            check("P3"),
        ),
    ),
    (
        "a KL that is NaN leaves β as it is",
        f"{PPO}:AdaptivePenalty.update",
        "if math.isnan(update_kl):",
        "if update_kl is None:",
        (of("ppo", "test_controllers_refuse_what_makes_no_sense"),),
    ),
    (
        "the reference controller's error is not clipped",
        f"{PPO}:ReferenceKLController.update",
        "error = min(max(reference_kl / self.target - 1.0, -0.2), 0.2)",
        "error = reference_kl / self.target - 1.0",
        (of("ppo", "test_reference_controller"), check("P3")),
    ),
    (
        "the reference controller lowers what it should raise",
        f"{PPO}:ReferenceKLController.update",
        "error = min(max(reference_kl / self.target - 1.0, -0.2), 0.2)",
        "error = min(max(1.0 - reference_kl / self.target, -0.2), 0.2)",
        (of("ppo", "test_reference_controller"), check("P3")),
    ),
    (
        "a batch beyond the horizon turns the coefficient's sign",
        f"{PPO}:ReferenceKLController.update",
        "if not 0 < num_sequences < 5 * self.horizon:",
        "if not 0 < num_sequences:",
        (of("ppo", "test_controllers_refuse_what_makes_no_sense"),),
    ),
    (
        "whitening takes its range from padding too",
        f"{MASKED}:masked_whiten",
        "low, high = x[mask].min(), x[mask].max()",
        "low, high = x.min(), x.max()",
        (check("G4"), of("ppo", "test_padding_reaches_neither_loss_nor_gradient")),
    ),
    (
        "whitening takes its mean from padding too",
        f"{MASKED}:masked_whiten",
        "deviation = unit - masked_mean(unit, mask)",
        "deviation = unit - unit.mean()",
        (
            check("G4"),
            of("masked", "test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding"),
        ),
    ),
    (
        "whitening takes its variance from padding too",
        f"{MASKED}:masked_whiten",
        "variance = masked_mean(deviation.square(), mask)",
        "variance = deviation.square().mean()",
        (
            check("G4"),
            of("masked", "test_whitened_entries_have_mean_0_and_variance_1_whatever_the_padding"),
        ),
    ),
    (
        "DPO compares with half of the reference",
        f"{DPO}:_margin",
        "return (chosen - reference_chosen) - (rejected - reference_rejected)",
        "return (chosen - reference_chosen) - rejected",
        (check("D1"), check("D6")),
    ),
    (
        "robust DPO is not rescaled",
        f"{DPO}:robust_dpo_loss",
        " - label_smoothing * disagree) / (1 - 2 * label_smoothing)",
        " - label_smoothing * disagree) / 1",
        (check("D1"), check("D6"), check("D7")),
    ),
    (
        "conservative DPO smooths twice",
        f"{DPO}:dpo_loss",
        "return (1 - label_smoothing) * agree + label_smoothing * disagree",
        "return (1 - 2 * label_smoothing) * agree + 2 * label_smoothing * disagree",
        (check("D1"), check("D6"), check("D7")),
    ),
    (
        "IPO's target is 1/τ",
        f"{DPO}:ipo_loss",
        "1 / (2 * tau)",
        "1 / tau",
        (check("D1"), check("D6"), check("D7")),
    ),
)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
