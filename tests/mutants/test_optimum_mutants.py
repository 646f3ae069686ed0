"""Pitfalls that move what training converges to, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

DPO = "exact/test_optimum.py::test_dpo_ends_at_the_optimum"
GRADIENT = "exact/test_optimum.py::test_the_gradient_of_dpo_vanishes_at_the_optimum"
REWARDS = "exact/test_optimum.py::test_fitted_rewards_are_the_rewards_up_to_a_constant"
SAMPLED = "exact/test_optimum.py::test_sampled_training_ends_at_the_optimum"
SAME = "exact/test_optimum.py::test_a_reward_that_all_answers_to_a_prompt_have_moves_nothing"
EXPECTED = "exact/test_optimum.py::test_exact_advantages_train_to_the_optimum"
ADVANTAGES = "exact/test_optimum.py::test_exact_advantages_have_mean_0_and_vanish_at_the_optimum"
CUT_OFF = "exact/test_mdp.py::test_a_step_cut_off_counts_the_next_state_and_a_terminated_one_does_not"
ENDLESS = "exact/test_control.py::test_a_time_limit_does_not_change_what_an_endless_reward_is_worth"
MUTANTS = (
    Mutant(
        name="DPO forgets the reference",
        symbol="logratio.objectives.dpo:_margin",
        old="return (chosen - reference_chosen) - (rejected - reference_rejected)",
        new="return chosen - rejected",
        checks=(DPO, GRADIENT),
    ),
    Mutant(
        name="DPO's labels are exchanged",
        symbol="logratio.objectives.dpo:dpo_loss",
        old="return (1 - label_smoothing) * agree + label_smoothing * disagree",
        new="return (1 - label_smoothing) * disagree + label_smoothing * agree",
        checks=(DPO, GRADIENT),
    ),
    Mutant(
        name="DPO smooths labels nobody asked it to smooth",
        symbol="logratio.objectives.dpo:dpo_loss",
        old="return (1 - label_smoothing) * agree + label_smoothing * disagree",
        new="return 0.9 * agree + 0.1 * disagree",
        checks=(DPO, GRADIENT),
    ),
    Mutant(
        name="the reward model learns from the rejected",
        symbol="logratio.objectives.bradley_terry:comparison_loss",
        old="likelihood = preference * agree + (1 - preference) * disagree",
        new="likelihood = preference * disagree + (1 - preference) * agree",
        checks=(REWARDS,),
    ),
    Mutant(
        name="the KL in the reward has the wrong sign",
        symbol="logratio.objectives.kl:k1",
        old="    return log_ratio\n",
        new="    return -log_ratio\n",
        checks=(SAMPLED, EXPECTED, ADVANTAGES),
    ),
    Mutant(
        name="answers to different prompts are grouped together",
        symbol="logratio.objectives.advantages:_groups",
        old="groups = rewards.reshape(-1, group_size)",
        new="groups = rewards.reshape(group_size, -1).T",
        checks=(SAME, SAMPLED),
    ),
    Mutant(
        name="returns end at the next row",
        symbol="logratio.objectives.advantages:discounted_sum",
        old="total = term + torch.where(is_cut, nothing, weight * total)",
        new="total = term",
        checks=(SAMPLED,),
    ),
    Mutant(
        name="GAE leaves out the next value",
        symbol="logratio.objectives.advantages:gae",
        old="differences = rewards + weighted(discounts, next_values) - values",
        new="differences = rewards - values",
        checks=(EXPECTED, ADVANTAGES, CUT_OFF, ENDLESS),
    ),
    Mutant(
        name="PPO's ratio is upside down",
        symbol="logratio.objectives.ppo:clip_loss",
        old="ratio = torch.where(clipped, log_ratio.detach(), log_ratio).exp()",
        new="ratio = (-torch.where(clipped, log_ratio.detach(), log_ratio)).exp()",
        checks=(SAMPLED, EXPECTED),
    ),
    Mutant(
        name="the score stands on the slot behind the end",
        symbol="logratio.verify.worlds.training:_token_rewards",
        old="last = mask & ~_next(mask)",
        new="last = ~mask & (mask.cumsum(dim=-1) == mask.sum(dim=-1, keepdim=True))",
        checks=(SAMPLED, EXPECTED),
    ),
    Mutant(
        name="the last token is charged no KL",
        symbol="logratio.verify.worlds.training:_token_rewards",
        old="torch.where(mask, charges, zero)",
        new="torch.where(mask & ~last, charges, zero)",
        checks=(SAMPLED, EXPECTED, ADVANTAGES),
    ),
    Mutant(
        name="a time limit is taken for the end",
        symbol="logratio.verify.worlds.mdp:advantages_and_targets",
        old="discounts = gamma * (~episodes.terminated).to(values)",
        new="discounts = gamma * episodes.continued().to(values)",
        checks=(CUT_OFF, ENDLESS),
    ),
    Mutant(
        name="the value behind the end counts",
        symbol="logratio.verify.worlds.mdp:advantages_and_targets",
        old="discounts = gamma * (~episodes.terminated).to(values)",
        new="discounts = gamma * torch.ones_like(episodes.rewards)",
        checks=(CUT_OFF,),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
