"""Pitfalls of driving environments, each a patch that a test must kill; most stood in a known library."""

import pytest

from mutants.harness import Mutant, survivors

ROWS = "control/test_collector.py::test_rows_are_those_of_the_episodes_written_out"
MODES = "control/env/test_adapter.py::test_a_step_means_the_same_in_every_mode"
ADDED = "control/env/test_adapter.py::test_rows_that_an_autoreset_adds_are_not_real"
BOTH = "control/env/test_adapter.py::test_an_end_that_is_also_a_cut_is_an_end"
TRAINERS = "control/test_collector.py::test_the_trainers_take_steps_as_they_take_tokens"
RESUMED = "control/test_collector.py::test_a_run_that_was_stopped_goes_on_bit_for_bit"
STILL = "control/test_collector.py::test_moments_stand_still_while_an_update_is_made"
HEADS = "control/test_policy.py::"
REPLAY = "control/test_replayed_updates.py::test_weights_and_metrics_are_those_of_autograd"
TURN = "control/env/test_sync_vector.py::test_"
SCALING = "control/env/test_action_scaling.py::test_"
MASKS = "control/env/test_action_masks.py::test_"
TAPE = "control/test_graph_replay.py::test_"
EPISODES = "control/test_evaluation.py::"
MUTANTS = (
    # --- ends and cuts ---------------------------------------------------------------------------------
    Mutant(
        name="an episode that was cut off has ended",
        symbol="logratio.control.collector:ControlCollector._to_rollout",
        old="bootstraps = (valid & ~terminated).float()",
        new="bootstraps = (valid & ~over).float()",
        checks=(ROWS + "[5-Disabled]", ROWS + "[1-SameStep]"),
    ),
    Mutant(
        name="an episode that has ended goes on",
        symbol="logratio.control.collector:ControlCollector._to_rollout",
        old="bootstraps = (valid & ~terminated).float()",
        new="bootstraps = valid.float()",
        checks=(ROWS + "[5-Disabled]",),
    ),
    Mutant(
        name="credit passes from one episode to the one before",
        symbol="logratio.control.collector:ControlCollector._to_rollout",
        old="traces=self.config.lam * (valid & ~over).float()",
        new="traces=self.config.lam * (valid & ~terminated).float()",
        checks=(ROWS + "[2-Disabled]",),
    ),
    Mutant(
        name="behind a cut the critic looks at the next episode",
        symbol="logratio.control.collector:ControlCollector._values",
        old="elsewhere = over.clone()",
        new="elsewhere = torch.zeros_like(over)",
        checks=(ROWS + "[2-SameStep]", ROWS + "[2-Disabled]"),
    ),
    Mutant(
        name="nothing follows the last row of a rollout",
        symbol="logratio.control.collector:ControlCollector._values",
        old="elsewhere[:, -1] = True",
        new="pass",
        checks=(ROWS + "[5-Disabled]",),
    ),
    Mutant(
        name="an end that is also a cut is both",
        symbol="logratio.control.env.adapter:VectorEnvAdapter._ends",
        old="truncated = np.asarray(truncated, dtype=bool) & valid & ~terminated",
        new="truncated = np.asarray(truncated, dtype=bool) & valid",
        checks=(BOTH + "[Disabled]", BOTH + "[NextStep]"),
    ),
    # --- autoreset -------------------------------------------------------------------------------------
    Mutant(
        name="rows that an autoreset adds are real",
        symbol="logratio.control.env.adapter:VectorEnvAdapter.step",
        old="valid = ~self._over if self._next_step else self._everywhere",
        new="valid = self._everywhere",
        checks=(ADDED + "[1]", ROWS + "[2-NextStep]"),
    ),
    Mutant(
        name="the final observation is that of the next episode",
        symbol="logratio.control.env.adapter:VectorEnvAdapter.step",
        old="next_observations = self._with_final(now, infos, over)",
        new="next_observations = now",
        checks=(MODES + "[2-SameStep]",),
    ),
    Mutant(
        name="rows that an autoreset adds are counted as steps",
        symbol="logratio.control.env.adapter:VectorEnvAdapter._count",
        old="self.steps += int(np.count_nonzero(valid))",
        new="self.steps += self.num_envs",
        checks=(ADDED + "[2]",),
    ),
    Mutant(
        name="returns go on from one episode to the next",
        symbol="logratio.control.env.adapter:VectorEnvAdapter._count",
        old="self._returns[over], self._lengths[over] = 0.0, 0",
        new="pass",
        checks=(ADDED + "[2]",),
    ),
    Mutant(
        name="the policy is trained on rows that an autoreset adds",
        symbol="logratio.control.policy:ControlActor._row_indices",
        old=("return rows if rollout.all_valid else rollout.trajectories.mask.flatten().nonzero()[rows, 0]"),
        new="return rows",
        checks=("control/test_collector.py::test_rows_that_an_autoreset_adds_are_in_no_minibatch",),
    ),
    Mutant(
        name="all environments have the same episodes",
        symbol="logratio.control.env.adapter:episode_seed",
        old='f"{seed}:{environment}:{episode}"',
        new='f"{seed}:{episode}"',
        checks=("control/env/test_adapter.py::test_episodes_are_seeded_by_run_environment_and_number",),
    ),
    # --- what a policy does ----------------------------------------------------------------------------
    Mutant(
        name="the action that was cut to its bounds is scored",
        symbol="logratio.control.collector:ControlCollector.collect",
        old="rows.append((view, seen, actions, logprobs, self.environments.step(actions.numpy())))",
        new="step = self.environments.step(actions.numpy())\n"
        "            rows.append((view, seen, actions.clamp(-0.5, 0.5), logprobs, step))",
        checks=("recipes/test_control.py::test_actions_that_are_numbers_and_a_memory",),
    ),
    Mutant(
        name="the log-density forgets the deviation",
        symbol="logratio.control.gaussian:_logprob",
        old="(-0.5 * scaled.square() - log_std - HALF_LOG_TWO_PI)",
        new="(-0.5 * scaled.square() - HALF_LOG_TWO_PI)",
        checks=(HEADS + "test_numbers_have_the_density_of_normal_distributions[parameter]",),
    ),
    Mutant(
        name="several choices have the mean of their log-probabilities",
        symbol="logratio.control.categorical:CategoricalHead._logprob",
        old="return logprobs.gather(-1, actions + starts).sum(dim=-1)",
        new="return logprobs.gather(-1, actions + starts).mean(dim=-1)",
        checks=(HEADS + "test_choices_have_the_probabilities_of_independent_softmaxes[sizes1]",),
    ),
    Mutant(
        name="what is not allowed is only improbable",
        symbol="logratio.control.categorical:CategoricalHead.log_probabilities",
        old="logits = logits.masked_fill(~action_mask, -torch.inf)",
        new="logits = logits.masked_fill(~action_mask, -10.0)",
        checks=(HEADS + "test_what_is_not_allowed_has_probability_zero_and_no_gradient[sizes0]",),
    ),
    Mutant(
        name="the most probable action may be one that is not allowed",
        symbol="logratio.control.categorical:CategoricalHead.greedy",
        old="return self._largest(self.log_probabilities(features, action_mask))",
        new="return self._largest(self.log_probabilities(features))",
        checks=(HEADS + "test_what_is_not_allowed_has_probability_zero_and_no_gradient[sizes0]",),
    ),
    # --- memory ----------------------------------------------------------------------------------------
    Mutant(
        name="a memory is wiped one step late",
        symbol="logratio.control.networks:RecurrentLayer.forward",
        old="episode_start[:, time, None]",
        new="episode_start[:, time - 1, None]",
        checks=(HEADS + "test_nothing_is_remembered_from_the_episode_before",),
    ),
    Mutant(
        name="a memory begins anew with each rollout",
        symbol="logratio.control.collector:ControlCollector.collect",
        old="self.state.hidden_state, self.state.partial = hidden_state, False",
        new=(
            "self.state.hidden_state, self.state.partial = policy.initial_state(self.config.num_envs), False"
        ),
        checks=("control/test_collector.py::test_a_memory_is_carried_from_rollout_to_rollout",),
    ),
    # --- scales ----------------------------------------------------------------------------------------
    Mutant(
        name="observations are divided by their variance",
        symbol="logratio.control.env.normalisation:RunningMoments.std",
        old="np.sqrt(self.squares / self.count + EPSILON)",
        new="(self.squares / self.count + EPSILON)",
        checks=("control/env/test_normalisation.py::test_moments_of_parts_are_those_of_the_whole",),
    ),
    Mutant(
        name="the scale moves while a policy collects",
        symbol="logratio.control.collector:ControlCollector.collect",
        old="seen = self.observation_scale(view.observations)",
        new="self.observation_scale.learn(view.observations)\n"
        "            seen = self.observation_scale(view.observations)",
        checks=(STILL,),
    ),
    Mutant(
        name="the discounted return goes on behind an episode's end",
        symbol="logratio.control.env.normalisation:RewardNormaliser.learn",
        old="self._returns[over[:, time]] = 0.0",
        new="pass",
        checks=(
            "control/env/test_normalisation.py::"
            "test_rewards_are_divided_by_the_deviation_of_the_discounted_return",
        ),
    ),
    *(
        Mutant(
            name=f"a checkpoint does not hold {what}",
            symbol="logratio.control.collector:ControlCollector.controllers",
            old=f'"{key}": self.{key},',
            new="",
            checks=(RESUMED + "[CartPole-v1-0-0.0]",),
        )
        for what, key in (
            ("the observations' scale", "observation_scale"),
            ("the rewards' scale", "reward_scale"),
        )
    ),
    Mutant(
        name="a checkpoint does not hold where the environments stand",
        symbol="logratio.control.collector:ControlCollector.controllers",
        old='"environments": self.state,',
        new="",
        checks=(RESUMED + "[CartPole-v1-0-0.0]",),
    ),
    Mutant(
        name="a checkpoint does not hold what is remembered",
        symbol="logratio.control.collector:EnvironmentState.load",
        old="if saved[name] is not None:",
        new='if name != "hidden_state" and saved[name] is not None:',
        checks=(RESUMED + "[CartPole-v1-4-0.0]",),
    ),
    Mutant(
        name="a checkpoint does not hold the noise that lasts",
        symbol="logratio.control.collector:EnvironmentState.load",
        old="if saved[name] is not None:",
        new='if name != "noise" and saved[name] is not None:',
        checks=(RESUMED + "[Pendulum-v1-0-0.9]",),
    ),
    # --- noise and networks ----------------------------------------------------------------------------
    Mutant(
        name="noise that lasts grows as well",
        symbol="logratio.control.collector:ControlCollector._noise",
        old="rho * last + math.sqrt(1.0 - rho * rho) * noise",
        new="rho * last + noise",
        checks=("control/test_collector.py::test_noise_lasts_and_each_action_is_scored_alone",),
    ),
    Mutant(
        name="an action is scored by what is new of its noise",
        symbol="logratio.control.gaussian:GaussianHead.sample",
        old="return drawn, _logprob(drawn, mean, log_std)",
        new="return drawn, _logprob(mean + log_std.exp() * 0.6 * noise, mean, log_std)",
        checks=("control/test_collector.py::test_noise_lasts_and_each_action_is_scored_alone",),
    ),
    Mutant(
        name="the critic reads the policy's hidden layers",
        symbol="logratio.control.networks:StackedMLP.forward",
        old="return first, second",
        new="return first, first",
        checks=(HEADS + "test_twins_are_two_perceptrons[shape0-tanh]",),
    ),
    Mutant(
        name="the optimiser's two moments change places",
        symbol="logratio.training.optimizer:build_optimizer",
        old="betas=(config.optimizer.adam_beta1, config.optimizer.adam_beta2),",
        new="betas=(config.optimizer.adam_beta2, config.optimizer.adam_beta1),",
        checks=("training/test_optimizer.py::test_the_optimiser_is_pytorch_s_adamw_bit_for_bit[0.0]",),
    ),
    Mutant(
        name="a space says at once that the number after its last is one of its elements",
        symbol="logratio.control.env.sync_vector:_discrete_contains",
        old="return low <= element < high if",
        new="return low <= element <= high if",
        checks=("control/env/test_sync_vector.py::test_what_a_space_says_at_once_is_what_it_said[space0]",),
    ),
    # --- environments in turn --------------------------------------------------------------------------
    Mutant(
        name="episodes under way begin anew with those that are over",
        symbol="logratio.control.env.sync_vector:FastSyncVectorEnv.reset",
        old="where = range(self.num_envs) if options is None else np.flatnonzero",
        new="where = range(self.num_envs) if True else np.flatnonzero",
        checks=(TURN + "what_is_shown_is_what_gymnasium_s_vector_shows[CartPole]",),
    ),
    Mutant(
        name="what went wrong is laid to the first environment",
        symbol="logratio.control.env.sync_vector:FastSyncVectorEnv.step",
        old="raise EnvStepError.from_error(error, number, steps[number]) from error",
        new="raise EnvStepError.from_error(error, 0, steps[number]) from error",
        checks=(TURN + "what_has_another_form_is_named_with_environment_and_step",),
    ),
    Mutant(
        name="an environment's infos are another's",
        symbol="logratio.control.env.sync_vector:_masks",
        old='masks[number] = infos[number]["action_mask"]',
        new='masks[number] = infos[has_mask.argmax()]["action_mask"]',
        checks=(TURN + "what_is_shown_is_what_gymnasium_s_vector_shows[masks]",),
    ),
    # --- spaces and masks ------------------------------------------------------------------------------
    Mutant(
        name="a policy acts in the environment's units wherever its bounds lie",
        symbol="logratio.control.env.spaces:_box_actions",
        old="scaling = action_scaling(flat_low, flat_high)",
        new="scaling = None",
        checks=(SCALING + "each_dimension_has_a_map_of_its_own_in_the_form_of_the_space",),
    ),
    Mutant(
        name="spaces whose results are published are scaled too",
        symbol="logratio.control.env.action_scaling:action_scaling",
        old="scale = np.where(both & ~fits, scale, 1.0)",
        new="scale = np.where(both, scale, 1.0)",
        checks=(SCALING + "what_needs_no_map_is_given_bit_for_bit[2.0]",),
    ),
    Mutant(
        name="a policy of before is scaled now",
        symbol="logratio.recipes.control_seeds:record_best_video",
        old='found = description.get("action_scaling")',
        new='found = description.get("action_scaling") or {"centre": [20.0], "scale": [15.0]}',
        checks=("recipes/test_control_spaces.py::test_a_saved_policy_acts_in_the_units_that_its_file_names",),
    ),
    Mutant(
        name="a mask is that of the step before where another environment begins anew",
        symbol="logratio.control.env.adapter:VectorEnvAdapter.step",
        old="self._update_masks(infos, where=~over, episode_start=self._nowhere)",
        new="self._update_masks(infos, where=~over & ~over.any(), episode_start=self._nowhere)",
        checks=(MASKS + "a_mask_holds_though_another_environment_begins_anew[Disabled]",),
    ),
    Mutant(
        name="a mask holds in the next episode",
        symbol="logratio.control.env.adapter:VectorEnvAdapter._update_masks",
        old="self.masks.begin(episode_start)",
        new="pass",
        checks=(MASKS + "a_mask_does_not_hold_beyond_its_episode[Disabled]",),
    ),
    Mutant(
        name="a rollout whose first mask comes late has none",
        symbol="logratio.control.collector:_masks",
        old="    if first is None:\n        return None\n    everything",
        new=("    if first is None or action_mask[0] is None:\n        return None\n    everything"),
        checks=(MASKS + "a_mask_that_comes_in_the_midst_of_a_rollout_is_trained_with",),
    ),
    Mutant(
        name="a choice that there is not is one of the next part",
        symbol="logratio.control.env.spaces:_one_hot.flatten",
        old=" or (places < 0).any() or (places >= sizes).any():",
        new=" or (places < 0).any():",
        checks=(SCALING + "what_a_space_does_not_have_is_no_observation[space4-shown4]",),
    ),
    # --- recorded minibatches --------------------------------------------------------------------------
    Mutant(
        name="every update is played on the tensors of the first",
        symbol="logratio.control.recorded_minibatches:RecordedMinibatches._inputs_of",
        old="if self._inputs is not None and self._inputs.losses is losses:",
        new="if self._inputs is not None:",
        checks=(REPLAY + "[choice-clip-Disabled]", REPLAY + "[numbers-clip-Disabled]"),
    ),
    Mutant(
        name="minibatches of one size are one computation, whatever the trainer's numbers",
        symbol="logratio.control.recorded_minibatches:RecordedMinibatches._inputs_of",
        old="constants += [name, value]",
        new="pass",
        checks=(REPLAY + "[choice-penalty-Disabled]",),
    ),
    Mutant(
        name="a recorded gradient takes the place of one that stands",
        symbol="logratio.control.recorded_minibatches:RecordedMinibatches.backpropagate",
        old="parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient",
        new="parameter.grad = gradient",
        checks=("control/test_replayed_updates.py::test_gradients_are_added_to_those_that_stand",),
    ),
    Mutant(
        name="a tape is believed whatever computing says",
        symbol="logratio.control.graph_replay:GraphCache.__call__",
        old="if not all(map(_identical, results, anew)):",
        new="if False:",
        checks=(TAPE + "a_tape_that_differs_from_computing_is_found_out_and_not_played_again",),
    ),
    Mutant(
        name="a tape is checked at its first use alone",
        symbol="logratio.control.graph_replay:GraphCache.__call__",
        old="if self._uses[key].bit_count() == 1:",
        new="if self._uses[key] == 1:",
        checks=(TAPE + "checks_go_on_at_powers_of_two",),
    ),
    Mutant(
        name="numbers that were drawn are recorded as if they were the same every time",
        symbol="logratio.control.op_recorder:_check_fit",
        old="if torch.Tag.nondeterministic_seeded in tags:",
        new="if False:",
        checks=(TAPE + "what_depends_on_numbers_or_chance_is_not_recorded[rand]",),
    ),
    Mutant(
        name="a mask is recorded as if it were a list of places",
        symbol="logratio.control.op_recorder:_check_fit",
        old="if any(place is None or place.dtype in (torch.bool, torch.uint8) for place in places):",
        new="if False:",
        checks=(TAPE + "what_depends_on_numbers_or_chance_is_not_recorded[mask]",),
    ),
    Mutant(
        name="a tensor from elsewhere is recorded as a constant",
        symbol="logratio.control.op_recorder:OpRecorder.slot",
        old='raise NotRecordable(f"a tensor of shape {tuple(tensor.shape)} is not among the inputs")',
        new="self.literals[self._place(tensor).number] = tensor; found = self._slots[id(tensor)]",
        checks=(TAPE + "a_tensor_that_is_no_input_is_not_recorded",),
    ),
    Mutant(
        name="a copy that is changed is taken for what it is a copy of",
        symbol="logratio.control.op_recorder:OpRecorder.check_copies",
        old="if any(memory(tensor) in self._changed.keys() | given for tensor in self._taken):",
        new="if False:",
        checks=(
            TAPE + "a_copy_that_somebody_may_change_is_made[rows changed]",
            TAPE + "a_copy_that_somebody_may_change_is_made[copy given]",
        ),
    ),
    Mutant(
        name="equal operations are merged though the first one's result is changed",
        symbol="logratio.control.graph_passes:_GraphOptimiser.different",
        old=("            if not mutates:\n"),
        new="            if True:\n",
        checks=(TAPE + "what_is_done_twice_and_changed_once_is_done_twice",),
    ),
    Mutant(
        name="a negative's negative is read where what it was taken of has changed since",
        symbol="logratio.control.graph_passes:_GraphOptimiser._stands_for",
        old=" and not self.recorder.is_changed(same, since=since)",
        new="",
        checks=(TAPE + "what_seems_in_vain_is_done_where_it_is_given_changed_or_of_another_form",),
    ),
    Mutant(
        name="a negative's negative that is given is the tensor that it was taken of",
        symbol="logratio.control.graph_passes:_GraphOptimiser._stands_for",
        old=" and memory(other) not in self.given",
        new="",
        checks=(TAPE + "what_seems_in_vain_is_done_where_it_is_given_changed_or_of_another_form",),
    ),
    Mutant(
        name="a constant is given away and stays a constant",
        symbol="logratio.control.graph_passes:_GraphOptimiser.without_constants",
        old="if call.made and mine and ",
        new="if call.made and ",
        checks=(TAPE + "constants_are_made_once_but_for_those_that_are_given_or_changed",),
    ),
    Mutant(
        name="the last change of a tensor is none",
        symbol="logratio.control.op_recorder:OpRecorder.is_changed",
        old="-1) >= since",
        new="-1) > since",
        checks=(TAPE + "what_is_changed_last_and_read_by_another_name_is_changed",),
    ),
    Mutant(
        name="a product with any constant is left out",
        symbol="logratio.control.graph_passes:_GraphOptimiser._is_one",
        old=" and bool((self.recorder.tensor(slot) == 1).all())",
        new="",
        checks=(TAPE + "a_product_with_ones_and_a_view_of_the_same_form_are_left_out",),
    ),
    Mutant(
        name="a copy in another precision stands for its original",
        symbol="logratio.control.graph_passes:_GraphOptimiser._stands_for",
        old="(one.shape, one.stride(), one.dtype) == (other.shape, other.stride(), other.dtype)",
        new="(one.shape, one.stride()) == (other.shape, other.stride())",
        checks=(TAPE + "a_product_with_ones_of_another_precision_is_made",),
    ),
    Mutant(
        name="minus nothing is nothing",
        symbol="logratio.control.graph_passes:_GraphOptimiser.with_tensors",
        old="name = (repr(number), ",
        new="name = (repr(number + 0.0), ",
        checks=(TAPE + "zero_keeps_its_sign",),
    ),
    Mutant(
        name="a number is taken as a tensor of whole numbers' kind too",
        symbol="logratio.control.graph_passes:_GraphOptimiser.with_tensors",
        old="if not tensor.is_floating_point():",
        new="if False:",
        checks=(TAPE + "numbers_are_made_tensors_once_in_the_precision_of_what_they_meet",),
    ),
    Mutant(
        name="views of weights are made once, whatever memory these have later",
        symbol="logratio.control.graph_replay:RecordedGraph._views_of",
        old="if made_of != self._made_of:",
        new="if not self._made_of:",
        checks=(TAPE + "views_of_weights_follow_their_numbers_and_their_memory",),
    ),
    # --- judging ---------------------------------------------------------------------------------------
    Mutant(
        name="the episodes that end first are the ones that count",
        symbol="logratio.control.evaluation:play_episodes",
        old="while any(len(own) < share for own, share in zip(played, shares, strict=True)):",
        new="while sum(map(len, played)) < episodes:",
        checks=(EPISODES + "test_every_environment_plays_as_many_episodes[Disabled]",),
    ),
    Mutant(
        name="a policy is judged on the episodes that it was trained on",
        symbol="logratio.recipes.control:judge",
        old="seed=flags.seed + EVALUATION_SEED",
        new="seed=flags.seed",
        checks=("recipes/test_control.py::test_a_policy_is_judged_on_episodes_that_training_never_had",),
    ),
    Mutant(
        name="the interquartile mean is that of all",
        symbol="logratio.control.evaluation:interquartile_mean",
        old="return float((ordered * inside).sum() / inside.sum())",
        new="return float(ordered.mean())",
        checks=(EPISODES + "test_the_interquartile_mean_is_of_the_middle_half[values2-1.5]",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
