"""Pitfalls of a run of several stages and of what `--with ppo` adds, each a patch that a test must kill."""

from __future__ import annotations

import pytest

from mutants.harness import Mutant, survivors

LEDGER = "recipes/quickstart/test_stage_cache.py::"
PPO = "recipes/quickstart/test_ppo.py::"
WHOLE = PPO + "test_a_run_without_ppo_goes_on_with_it"
CHANGES = PPO + "test_after_a_change_only_what_depends_on_it_is_done_again"
KEPT = PPO + "test_candidates_drawn_before_a_stop_are_kept"
MUTANTS = (
    # --- what stands -----------------------------------------------------------------------------------
    Mutant(
        name="a stage that builds on several sees the first alone",
        symbol="logratio.recipes.quickstart.stage_cache:_join",
        old='hash_json(keys) if len(keys) > 1 else "".join(keys)',
        new='"".join(keys[:1])',
        checks=(LEDGER + "test_a_change_does_not_reach_another_branch[leaf-expected3]",),
    ),
    Mutant(
        name="stages that are not asked for outlive what they were made from",
        symbol="logratio.recipes.quickstart.stage_cache:run_stages",
        old="ledger = _forget(path, ledger, _disabled_after(stages, stage.name))",
        new="pass",
        checks=(LEDGER + "test_stages_that_are_not_asked_for_stay_as_long_as_what_they_build_on",),
    ),
    Mutant(
        name="a change reaches only the next of the stages that are not asked for",
        symbol="logratio.recipes.quickstart.stage_cache:_disabled_after",
        old="if reached & set(stage.after):",
        new="if name in stage.after:",
        checks=(LEDGER + "test_stages_that_are_not_asked_for_stay_as_long_as_what_they_build_on",),
    ),
    Mutant(
        name="whatever is not asked for is removed",
        symbol="logratio.recipes.quickstart.stage_cache:_disabled_after",
        old="[stage for stage in stages if stage.name in reached and not stage.enabled]",
        new="[stage for stage in stages if not stage.enabled]",
        checks=(LEDGER + "test_stages_that_are_not_asked_for_stay_as_long_as_what_they_build_on",),
    ),
    Mutant(
        name="best-of-n is not judged again by another reward model",
        symbol="logratio.recipes.quickstart.plan:ppo_rows",
        old='("candidates", "reward"),',
        new='("candidates",),',
        checks=(CHANGES,),
    ),
    Mutant(
        name="PPO is done again where only the memory for answers is another",
        symbol="logratio.recipes.quickstart.plan:ppo_rows",
        old='if name != "decode_batch_size"',
        new="if name",
        checks=(CHANGES,),
    ),
    Mutant(
        name="the evaluation is not done again for another PPO",
        symbol="logratio.recipes.quickstart.plan:last_row",
        old='("dpo", "ppo", "best-of-n") if',
        new='("dpo", "best-of-n") if',
        checks=(CHANGES,),
    ),
    Mutant(
        name="answers that a stopped run drew are drawn again",
        symbol="logratio.recipes.quickstart.stages:draw",
        old="store=partial,",
        new="store=None,",
        checks=(KEPT,),
    ),
    Mutant(
        name="the first file of candidates is drawn again when the second was stopped",
        symbol="logratio.recipes.quickstart.stages:draw",
        old="if (settings.out / name).exists():",
        new="if False:",
        checks=(KEPT + "[72]",),
    ),
    # --- what is trained on what -----------------------------------------------------------------------
    Mutant(
        name="PPO measures its KL to the fine-tuned model",
        symbol="logratio.recipes.quickstart.ppo:improve",
        old="reference=context.sources[START]",
        new="reference=context.sources[SFT]",
        checks=(WHOLE,),
    ),
    Mutant(
        name="PPO is paid by the reward that judges",
        symbol="logratio.recipes.quickstart.ppo:improve",
        old="reward=proxy)],",
        new="reward=context.reward)],",
        checks=(WHOLE,),
    ),
    Mutant(
        name="the reward model starts from the first model",
        symbol="logratio.recipes.quickstart.ppo:train_scorer",
        old="model=context.sources[SFT],\n            training=config",
        new="model=context.sources[START],\n            training=config",
        checks=(WHOLE,),
    ),
    Mutant(
        name="PPO's answers are as long as they happen to be",
        symbol="logratio.recipes.quickstart.run:settle",
        old="max_new_tokens=settings.max_new_tokens",
        new="max_new_tokens=settings.collect.max_new_tokens",
        checks=(WHOLE,),
    ),
    # --- what is compared ------------------------------------------------------------------------------
    Mutant(
        name="best-of-n competes with answers that are among its own",
        symbol="logratio.recipes.quickstart.ppo:draw_candidates",
        old="seed = settings.seed + 1",
        new="seed = settings.seed",
        checks=(WHOLE,),
    ),
    Mutant(
        name="the judge chooses and the reward model judges",
        symbol="logratio.recipes.quickstart.ppo:compare_methods",
        old='judged["gold"], judged["proxy"], sizes=sizes',
        new='judged["proxy"], judged["gold"], sizes=sizes',
        checks=(WHOLE,),
    ),
    Mutant(
        name="the upper bound begins at the mean of its own few prompts",
        symbol="logratio.recipes.quickstart.ppo:find_bound",
        old="reference_mean=mean",
        new="reference_mean=None",
        checks=(WHOLE,),
    ),
    Mutant(
        name="settings that nothing reads are dropped without a word",
        symbol="logratio.recipes.quickstart.checks:check_unread",
        old="if setting.name in OF_PPO and",
        new="if not setting.name and",
        checks=(PPO + "test_settings_that_nothing_would_read_are_refused",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
