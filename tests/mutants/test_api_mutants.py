"""What the Python API and files of settings must not get wrong."""

from __future__ import annotations

import pytest

from mutants.harness import Mutant, survivors

FILES, API = "test_config_file.py", "test_api.py"

MUTANTS = (
    Mutant(
        name="a component in a file falls back to its own defaults",
        symbol="logratio.config_file:_build",
        old="inner = _default(parts[spelled]) if base is None else getattr(base, spelled)",
        new="inner = None",
        checks=(f"{FILES}::test_a_component_keeps_what_the_command_has_it_at",),
    ),
    Mutant(
        name="a run that is repeated is resumed",
        symbol="logratio.config_file",
        old='ONCE = frozenset({"resume", "overwrite"})',
        new='ONCE = frozenset({"overwrite"})',
        checks=(f"{FILES}::test_what_one_call_asked_for_is_not_repeated",),
    ),
    Mutant(
        name="true is a number",
        symbol="logratio.config_file:_convert_one",
        old="if isinstance(value, bool) is (kind is bool):",
        new="if True:",
        checks=(f"{FILES}::test_faults_say_what_and_where",),
    ),
    Mutant(
        name="settings of another command are taken",
        symbol="logratio.config_file:read_settings",
        old="if written_by != command:",
        new="if False:",
        checks=(f"{FILES}::test_faults_say_what_and_where",),
    ),
    Mutant(
        name="a policy that was trained is known by the model that it started from",
        symbol="logratio.recipes.policy:Policy.trained_by",
        old="            self.name = str(out)\n",
        new="",
        checks=(f"{API}::test_a_policy_is_the_run_that_trained_it",),
    ),
    Mutant(
        name="a run that fails leaves its weights in the policy",
        symbol="logratio.recipes.policy:Policy.trained_by",
        old="        finally:\n            self.unload()\n",
        new="        finally:\n            pass\n",
        checks=(f"{API}::test_a_run_that_fails_leaves_the_policy_as_it_was",),
    ),
    Mutant(
        name="the weight of a reward function is dropped",
        symbol="logratio.recipes.rewards:named_rewards",
        old="rewards.append(WeightedReward(name=name, reward=reward, weight=weight))",
        new="rewards.append(WeightedReward(name=name, reward=reward))",
        checks=(f"{API}::test_rewards_are_plain_functions",),
    ),
    Mutant(
        name="a run writes other settings than it was given",
        symbol="logratio.recipes.begin:begin_training",
        old='write_settings(run.path / CONFIG_FILE, f"train {command}", settings)',
        new='write_settings(run.path / CONFIG_FILE, f"train {command}", type(settings)(data=settings.data, out=settings.out, model=settings.model))',  # noqa: E501
        checks=(f"{API}::test_a_run_is_repeated_by_the_settings_that_it_wrote",),
    ),
    Mutant(
        name="settings by their own names forget what the algorithm has its components at",
        symbol="logratio.training.config:TrainingConfig.of",
        old="defaults = _default_components(cls)",
        new="defaults = _default_components(TrainingConfig) | {'guard': GuardConfig()}",
        checks=("training/test_config.py::test_of_starts_from_the_algorithm_s_own_components",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
