"""Pitfalls of reward models, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

PACKED = "policies/test_reward_scorer.py::test_packed_scores_equal_one_sequence_at_a_time_to_1e_10"
END_READ = "policies/test_reward_scorer.py::test_the_end_token_itself_is_read"
BESIDE = "policies/test_reward_scorer.py::test_tokens_beside_and_behind_an_answer_do_not_change_its_score"
TRANSFORMERS = "models/test_reward_model.py::test_transformers_reads_the_same_scores_from_what_is_saved"
BY_HAND = (
    "algorithms/test_reward.py::test_the_first_update_has_the_loss_and_gradient_of_pairs_computed_one_by_one"
)
PARTS = "algorithms/test_reward.py::test_a_batch_equals_its_parts_equals_each_answer_apart"
GOLDEN = "algorithms/test_reward.py::test_the_loss_is_the_golden_one_with_each_setting"
TOGETHER = "algorithms/test_reward.py::test_pairs_of_a_prompt_come_together_and_answers_once"
EVALUATION = "evaluation/test_reward_calibration.py::"

MUTANTS = (
    Mutant(
        name="the score is read one token before the end",
        symbol="logratio.kernels.packing:include_last_token",
        old="tuple((*answer, answer[-1]) for answer in group.answers)",
        new="tuple(answer for answer in group.answers)",
        checks=(PACKED,),
    ),
    Mutant(
        name="the end token is not read",
        symbol="logratio.kernels.packing:last_token_positions",
        old="return row.source_positions[ends]",
        new="return (row.source_positions[ends] - 1).clamp(min=0)",
        checks=(PACKED, END_READ),
    ),
    Mutant(
        name="every answer of a row is scored at the row's end",
        symbol="logratio.kernels.packing:last_token_positions",
        old="return row.source_positions[ends]",
        new="return row.source_positions[ends[-1:]].expand(row.num_answers)",
        checks=(PACKED, BESIDE),
    ),
    Mutant(
        name="the end token pads in what is saved",
        symbol="logratio.models.reward_model:choose_pad_token",
        old="if token not in ends and token < rows]",
        new="if token < rows]",
        checks=(
            TRANSFORMERS,
            "models/test_reward_model.py::test_the_end_token_does_not_pad_and_its_embedding_learns",
        ),
    ),
    Mutant(
        name="the configuration names another padding token than the tokenizer",
        symbol="logratio.models.reward_model:choose_pad_token",
        old="    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id\n",
        new="",
        checks=(TRANSFORMERS,),
    ),
    Mutant(
        name="the end token's embedding does not learn",
        symbol="logratio.models.reward_model:choose_pad_token",
        old="model.get_input_embeddings().padding_idx = None",
        new="model.get_input_embeddings().padding_idx = tokenizer.eos_token_id",
        checks=("models/test_reward_model.py::test_the_end_token_does_not_pad_and_its_embedding_learns",),
    ),
    Mutant(
        name="the head is not small",
        symbol="logratio.models.reward_model:add_score_head",
        old="/ (hidden + 1) ** 0.5",
        new="* 1.0",
        checks=("models/test_reward_model.py::test_the_head_is_small_and_a_function_of_the_seed",),
    ),
    Mutant(
        name="the head is another one whenever a run is resumed",
        symbol="logratio.models.reward_model:add_score_head",
        old="generator=torch.Generator().manual_seed(seed)",
        new="generator=None",
        checks=("models/test_reward_model.py::test_the_head_is_small_and_a_function_of_the_seed",),
    ),
    Mutant(
        name="a weight that is missing is filled with random numbers",
        symbol="logratio.models.reward_model:_open_classifier",
        old='missing = sorted(info["missing_keys"])',
        new="missing = []",
        checks=("models/test_reward_model.py::test_a_head_that_was_never_saved_is_named",),
    ),
    Mutant(
        name="packed scores are not held against plain ones",
        symbol="logratio.policies.reward_scorer:RewardModel.select_layout",
        old="if not difference <= SCORE_TOLERANCE else",
        new="if difference < 0 else",
        checks=(
            "policies/test_reward_scorer.py::test_an_architecture_that_mixes_tokens_otherwise_is_computed_apart",
        ),
    ),
    Mutant(
        name="tokens of another tokenizer are believed",
        symbol="logratio.policies.reward_scorer:drop_foreign_tokens",
        old="if known and tokenisation.decode(tokenizer, ids) == completion.text:",
        new="if known:",
        checks=(
            "policies/test_reward_scorer.py::test_sampled_tokens_are_read_where_they_are_this_tokenizer_s",
        ),
    ),
    Mutant(
        name="each part of a batch is divided by its own pairs",
        symbol="logratio.algorithms.reward:backpropagate",
        old="pair_losses(pair, config).sum() / num_pairs",
        new="pair_losses(pair, config).mean()",
        checks=(PARTS,),
    ),
    Mutant(
        name="prompts weigh the same however many votes they have",
        symbol="logratio.algorithms.reward:train_reward",
        old="num_pairs = sum(len(group.labels) for group in batch)",
        new="num_pairs = len(batch)",
        checks=(BY_HAND,),
    ),
    Mutant(
        name="scores of a later group are those of an earlier one",
        symbol="logratio.algorithms.reward:gather_pairs",
        old="start += len(group.answers.answers)",
        new="start += len(group.labels)",
        checks=(BY_HAND, PARTS),
    ),
    Mutant(
        name="chosen and rejected are exchanged",
        symbol="logratio.algorithms.reward:gather_pairs",
        old="return PairScores(scores[chosen], scores[rejected], preference, margin)",
        new="return PairScores(scores[rejected], scores[chosen], preference, margin)",
        checks=(BY_HAND, "algorithms/test_reward.py::test_it_learns_who_was_preferred_and_leaves_ties_level"),
    ),
    Mutant(
        name="the margin is ignored",
        symbol="logratio.algorithms.reward:pair_losses",
        old="margin=pair.margin, centring",
        new="margin=0.0, centring",
        checks=(GOLDEN, BY_HAND),
    ),
    Mutant(
        name="the centring is ignored",
        symbol="logratio.algorithms.reward:pair_losses",
        old="centring=config.centring",
        new="centring=0.0",
        checks=(GOLDEN,),
    ),
    Mutant(
        name="a tie counts as a win",
        symbol="logratio.algorithms.reward:group_pairs",
        old="labels[group].append(Label(chosen, rejected, preference=TIE))",
        new="labels[group].append(Label(chosen, rejected))",
        checks=(TOGETHER,),
    ),
    Mutant(
        name="ties count as errors in the accuracy",
        symbol="logratio.algorithms.reward:summarise",
        old="decided = pair.preference != TIE",
        new="decided = pair.preference >= 0",
        checks=("algorithms/test_reward.py::test_metrics_count_ties_neither_right_nor_wrong",),
    ),
    Mutant(
        name="pairs of one prompt are counted as independent",
        symbol="logratio.evaluation.reward_calibration:clustered_share",
        old="effective = max(1, round(n / max(1.0, between / (share * (1 - share)))))",
        new="effective = n",
        checks=(
            EVALUATION + "test_pairs_of_one_prompt_that_go_together_tell_no_more_than_one",
            EVALUATION + "test_the_interval_covers_with_clusters",
        ),
    ),
    Mutant(
        name="calibration is measured on the chosen answer, which always won",
        symbol="logratio.evaluation.reward_calibration:_confidence",
        old="return 1.0 / (1.0 + math.exp(-abs(pair.margin)))",
        new="return max(0.5, 1.0 / (1.0 + math.exp(-pair.margin)))",
        checks=(EVALUATION + "test_calibration_bins_by_hand",),
    ),
    Mutant(
        name="agreement is the majority's share, which two votes always overstate",
        symbol="logratio.evaluation.reward_calibration:label_agreement",
        old="(a * (a - 1) + b * (b - 1)) / ((a + b) * (a + b - 1))",
        new="max(a, b) / (a + b)",
        checks=(EVALUATION + "test_agreement_by_hand",),
    ),
    Mutant(
        name="two ties in different orders contradict each other and are left out",
        symbol="logratio.data.validation:check_comparisons",
        old="    pairs = [pair for pair in pairs if not pair[0].tie]\n",
        new="    ties = []\n",
        checks=("cli/train/test_reward.py::test_a_tie_that_cannot_be_used_is_counted",),
    ),
    Mutant(
        name="an end token that an answer writes as text ends it",
        symbol="logratio.policies.reward_scorer:encode_as_text",
        old="    if reader is not tokenizer:\n",
        new=(
            "    answer, reader = drop_foreign_tokens(tokenizer, completion), tokenizer\n"
            "    if reader != reader:\n"
        ),
        checks=("models/test_plain_text.py::test_an_answer_reads_as_it_was_written_and_ends_once",),
    ),
    Mutant(
        name="a reward that is None counts as 0 in its mean",
        symbol="logratio.rollouts.reward_shaping:means_of",
        old="float(values.nanmean())",
        new="float(values.nan_to_num().mean())",
        checks=("rollouts/test_no_reward.py::test_a_sum_leaves_none_out_and_has_none_where_all_are",),
    ),
    Mutant(
        name="an answer that no reward judges earns 0",
        symbol="logratio.rollouts.reward_shaping:weighted_sum",
        old="torch.where(weighted.isnan().all(dim=0), torch.nan, weighted.nansum(dim=0))",
        new="weighted.nansum(dim=0)",
        checks=("rollouts/test_no_reward.py::test_a_prompt_without_reward_is_as_if_it_were_not_there",),
    ),
    Mutant(
        name="models are compared on prompts that only some were judged on",
        symbol="logratio.evaluation.model_comparison:rewards_of_all",
        old="if all(value is not None for value in values)",
        new="if any(value is not None for value in values)",
        checks=(
            "evaluation/test_model_comparison.py::test_prompts_without_a_reward_are_left_out_of_every_model",
        ),
    ),
    Mutant(
        name="a cut-off answer is scored as if it had ended",
        symbol="logratio.rollouts.rewards:ModelReward._encode",
        old="return self.scorer.encode(sample.prompt, answer, where",
        new="return self.scorer.encode(sample.prompt, Completion(text=answer.text), place",
        checks=("cli/train/test_reward.py::test_how_an_answer_ended_reaches_it",),
    ),
    Mutant(
        name="weights that were written to are given back to their file",
        symbol="logratio.runtime.mapped_weights:clean_mapped_ranges",
        old=' and rest.split()[0] == "0"',
        new="",
        checks=("runtime/test_mapped_weights.py::test_weights_that_were_written_to_are_kept",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
