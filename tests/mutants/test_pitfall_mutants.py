"""Pitfalls of texts, tokens and sampling, each built in on purpose; most were real faults elsewhere.

A name in brackets is the project in which the fault was found, or is.
"""

import pytest

from mutants.harness import Mutant, survivors, unsound

DPO, SFT = "logratio.algorithms.dpo", "logratio.algorithms.sft"
FORMATS, ENCODING = "logratio.data.preference_formats", "logratio.data.encoding"
TRANSCRIPTS, SPLITS = "logratio.data.transcripts", "logratio.data.splits"
DIVERGENCE, WIN_RATE = "logratio.evaluation.policy_divergence", "logratio.evaluation.win_rate"
PACKING, TOKENISATION = "logratio.kernels.packing", "logratio.models.tokenisation"
PRETRAINED = "logratio.models.loading"
LANGUAGE, CACHE = "logratio.policies.language", "logratio.generation.engines.kv_cache"
DECODING, DRAWING = "logratio.generation.engines.selection", "logratio.generation.token_sampling"
LABELLING, SAMPLING = "logratio.rollouts.pair_labelling", "logratio.generation.sampler"
INVARIANTS, REFERENCE = "logratio.training.invariants", "logratio.training.reference"

BY_HAND = "kernels/test_packing.py::test_a_row_as_worked_by_hand"
PACKED = "kernels/test_packing.py::test_packed_equals_one_answer_at_a_time_to_1e_10"
APART = "kernels/test_packing.py::test_apart_equals_shared_and_knows_lengths"
AFTER_SFT = "algorithms/test_dpo.py::test_loss_is_ln_2_directly_after_sft_in_the_same_process"
ANY_LENGTHS = "generation/engines/test_selection.py::test_rows_of_any_lengths_are_read_again_in_their_order"
AGAIN = "generation/engines/test_selection.py::test_rows_that_are_read_again_are_those_of_the_cache"
LEARNS = "algorithms/test_dpo.py::test_dpo_learns_the_preference"
REFUSED = "algorithms/test_dpo.py::test_contradictory_settings_are_refused"
DRAWN = "generation/test_token_sampling.py::test_logprobs_are_those_of_the_truncated_distribution"
FREQUENCIES = "generation/engines/test_selection.py::test_samples_follow_the_exact_distribution_of_sequences"
BATCHES = "generation/engines/test_selection.py::test_answers_do_not_depend_on_the_batch_size"
COMPANY = (
    "generation/engines/test_selection.py::"
    "test_answers_do_not_depend_on_the_other_prompts_their_order_or_the_padding"
)
OTHERS = "generation/engines/test_selection.py::test_other_architectures_and_training_mode"
KEPT_STOP = "generation/engines/test_selection.py::test_answers_stop_at_a_stop_token_and_keep_it"
LAST_STOP = "generation/engines/test_selection.py::test_a_stop_token_at_the_last_position_is_an_end"
ALIKE = "data/test_preference_formats.py::test_answers_that_begin_alike_keep_all_their_words"


def tokens(test: str) -> str:
    return f"models/test_tokenisation.py::{test}"


def distance(test: str) -> str:
    return f"evaluation/test_policy_divergence.py::{test}"


# What is wrong | symbol | text | what stands there instead | tests that must fail
OF_TOKENS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "prompt tokens carry loss",
        f"{PACKING}:pack",
        ("            target_ids += answer\n            answer_index += [num_answers] * len(answer)"),
        (
            "            source_positions += range(start, prompt_end - 1)\n"
            "            target_ids += [*answer, *group.prompt[1:]]\n"
            "            answer_index += [num_answers] * (len(answer) + len(group.prompt) - 1)"
        ),
        (PACKED, BY_HAND),
    ),
    (
        "prompt tokens carry loss where answers are computed apart (OpenRLHF)",
        f"{PACKING}:pack_single",
        (
            "        source_positions=torch.arange(len(prompt) - 1, len(tokens), device=device),\n"
            "        target_ids=torch.tensor(answer, device=device),\n"
            "        answer_index=torch.zeros(len(answer), dtype=torch.long, device=device),"
        ),
        (
            "        source_positions=torch.arange(len(tokens), device=device),\n"
            "        target_ids=torch.tensor([*prompt[1:], *answer], device=device),\n"
            "        answer_index=torch.zeros(len(tokens), dtype=torch.long, device=device),"
        ),
        (APART,),
    ),
    (
        "the prompt is cut where the two answers begin to differ (TRL)",
        f"{FORMATS}:_parse_transcripts",
        '    prompt, answer = split_transcript(chosen, column="chosen", where=where)\n'
        '    other_prompt, other_answer = split_transcript(rejected, column="rejected", where=where)\n',
        "    shared = len(__import__('os').path.commonprefix([chosen, rejected]))\n"
        "    prompt, answer = chosen[:shared], chosen[shared:]\n"
        "    other_prompt, other_answer = rejected[:shared], rejected[shared:]\n",
        (ALIKE,),
    ),
    (
        "the first answer's header ends the prompt",
        f"{TRANSCRIPTS}:split_transcript",
        'text.rpartition(HEADERS["assistant"])',
        'text.partition(HEADERS["assistant"])',
        ("data/test_transcripts.py::test_the_last_header_ends_the_prompt",),
    ),
    (
        "a token across the boundary of prompt and answer goes unnoticed (TRL)",
        f"{TOKENISATION}:encode_completion",
        "    if joined[: len(prompt_ids)] != prompt_ids:\n        raise BoundaryMismatch(",
        "    if len(joined) < len(prompt_ids):\n        raise BoundaryMismatch(",
        (tokens("test_a_prompt_that_shares_a_token_with_its_answer_is_a_mismatch"),),
    ),
    (
        "a finished answer gets no end token",
        f"{TOKENISATION}:_end_once",
        "return (*body, *end) if finished else body",
        "return body",
        (
            tokens("test_an_answer_ends_in_the_end_token_exactly_once"),
            tokens("test_an_answer_that_was_cut_off_has_no_end_token"),
        ),
    ),
    (
        "an answer that was cut off gets an end token",
        f"{TOKENISATION}:_end_once",
        "return (*body, *end) if finished else body",
        "return (*body, *end)",
        (tokens("test_an_answer_that_was_cut_off_has_no_end_token"),),
    ),
    (
        "the end token is masked where it also pads (transformers)",
        f"{TOKENISATION}:_end_once",
        "return (*body, *end) if finished else body",
        'return tuple(t for t in (*body, *end) if t != getattr(tokenizer, "pad_token_id", None))',
        (
            tokens("test_padding_with_the_end_token_changes_nothing"),
            tokens("test_an_answer_ends_in_the_end_token_exactly_once"),
        ),
    ),
    (
        "the begin token stands twice (alignment-handbook)",
        f"{TOKENISATION}:_rendered_ids",
        "return ids if ids[: len(prefix)] == prefix else prefix + ids",
        "return prefix + ids",
        (tokens("test_a_begin_token_in_the_text_is_not_doubled"),),
    ),
    (
        "prompts end as if they were answers",
        "logratio.models.end_of_turn:encode_plain",
        "return tuple(tokenizer(text, add_special_tokens=False)",
        "return tuple(tokenizer(text, add_special_tokens=True)",
        (tokens("test_the_begin_token_stands_exactly_once"),),
    ),
    (
        "the template's header of the answer is left out",
        f"{TOKENISATION}:render_prompt",
        ("return apply_template(tokenizer, prompt.messages, prompt.tools, add_generation_prompt=True)"),
        ("return apply_template(tokenizer, prompt.messages, prompt.tools, add_generation_prompt=False)"),
        (tokens("test_a_text_is_one_user_turn_of_the_template"),),
    ),
    (
        "sampled tokens are tokenised again",
        f"{TOKENISATION}:encode_completion",
        "    if completion.token_ids is not None:\n        return completion.token_ids\n",
        "",
        (
            tokens("test_sampled_tokens_stay_as_they_were_drawn"),
            "data/test_validation.py::test_sampled_tokens_are_trained_on_as_drawn",
        ),
    ),
    (
        "a long answer loses its beginning",
        f"{ENCODING}:encode_comparison",
        "(ids[:room] for ids in whole)",
        "(ids[-room:] for ids in whole)",
        ("data/test_validation.py::test_an_answer_that_just_fits_keeps_its_end_token",),
    ),
    (
        "pairs that are one after cutting are kept (OpenRLHF)",
        f"{ENCODING}:encode_comparison",
        "    if chosen == rejected:",
        "    if whole[0] == whole[1]:",
        ("data/test_validation.py::test_a_pair_that_cannot_be_trained_on_is_left_out_by_name_and_line",),
    ),
    (
        "answers to one prompt stand in training and evaluation",
        f"{SPLITS}:split_by_prompt",
        "_position(key(item), seed)",
        "_position(Prompt(f'{len(train)} {len(apart)} {key(item)}'), seed)",
        ("data/test_splits.py::test_answers_to_one_prompt_stay_together_in_every_form",),
    ),
)

# Top-k, and then top-p of what it left.
NUCLEUS = (
    "    if 0 < top_k < logits.shape[-1]:\n"
    "        least = logits.topk(top_k, dim=-1).values[:, -1:]\n"
    "        logits = logits.masked_fill(logits < least, -torch.inf)\n"
    "    if top_p < 1:\n"
    "        logits = logits.masked_fill(logits < _nucleus_threshold(logits, top_p), -torch.inf)\n"
)
OF_SAMPLING: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "log-probabilities leave out the temperature (TRL)",
        f"{DRAWING}:sample_from_logits",
        "    logprobs = _logprobs(truncated, truncated_sums, tokens)",
        (
            "    truncated = truncated * temperature\n"
            "    truncated_sums = _block_sums(truncated.exp())\n"
            "    logprobs = _logprobs(truncated, truncated_sums, tokens)"
        ),
        (
            DRAWN,
            "generation/engines/test_selection.py::test_logprobs_with_truncation_equal_an_independent_renormalisation",
        ),
    ),
    (
        "log-probabilities leave out top-k and top-p (TRL)",
        f"{DRAWING}:sample_from_logits",
        "    logprobs = _logprobs(truncated, truncated_sums, tokens)",
        (
            "    truncated = shifted / temperature\n"
            "    truncated_sums = _block_sums(truncated.exp())\n"
            "    logprobs = _logprobs(truncated, truncated_sums, tokens)"
        ),
        (
            DRAWN,
            "generation/engines/test_selection.py::test_logprobs_with_truncation_equal_an_independent_renormalisation",
        ),
    ),
    (
        "the temperature does not reach the draw",
        f"{DRAWING}:sample_from_logits",
        "truncated = truncate(shifted / temperature,",
        "truncated = truncate(shifted / 1.0,",
        (DRAWN, FREQUENCIES),
    ),
    (
        "top-p is of the whole vocabulary, not of what top-k left",
        f"{DRAWING}:truncate",
        NUCLEUS,
        "    whole = logits\n" + NUCLEUS.replace("nucleus_threshold(logits", "nucleus_threshold(whole"),
        ("generation/test_token_sampling.py::test_top_p_is_of_what_top_k_left",),
    ),
    (
        "the model's own log-probability is that of the draw",
        f"{DRAWING}:sample_from_logits",
        "SampledTokens(tokens, logprobs, _logprobs(shifted, block_sums, tokens))",
        "SampledTokens(tokens, logprobs, _logprobs(truncated, truncated_sums, tokens))",
        (DRAWN,),
    ),
    (
        "rows swap their random numbers when others end",
        "logratio.generation.engines.continuous_batching:ActiveRows.select",
        "self._uniform, self.ended = self._uniform[rows], self.ended[rows]",
        "self._uniform, self.ended = self._uniform[: len(rows)], self.ended[rows]",
        (BATCHES, COMPANY),
    ),
    (
        "the end token that was drawn is dropped",
        f"{DECODING}:_finished_batches",
        "answer.tokens.append(token)",
        "answer.tokens.extend([token] * (not stop or not answer.tokens))",
        (KEPT_STOP,),
    ),
    (
        "an answer that ends at the limit counts as cut off",
        f"{DECODING}:_finished_batches",
        'ended = partial.finish("stop" if stop else "length")',
        'ended = partial.finish("stop" if len(answer.tokens) < config.max_new_tokens else "length")',
        (LAST_STOP,),
    ),
    (
        "dropout is on while sampling",
        f"{DECODING}:evaluation_mode",
        "    model.eval()\n    try:",
        "    model.train()\n    try:",
        (OTHERS, distance("test_dropout_is_off_and_training_mode_comes_back")),
    ),
    (
        "dropout stays in a model that was loaded (TRL)",
        f"{PRETRAINED}:_remove_dropout",
        "        setattr(config, name, 0.0)",
        "        setattr(config, name, active[name])",
        ("models/test_loading.py::test_dropout_is_removed_and_said",),
    ),
    (
        "positions count the padding on the left",
        f"{CACHE}:DecodingState._advance",
        "position_ids=(positions[None] - self._padding[:, None]).clamp(min=0),",
        "position_ids=(positions[None] - 0 * self._padding[:, None]).clamp(min=0),",
        (OTHERS,),
    ),
    (
        "padding on the left is attended to",
        f"{CACHE}:DecodingState._advance",
        "attention_mask=(columns[None] >= self._padding[:, None]).long(),",
        "attention_mask=(columns[None] >= 0 * self._padding[:, None]).long(),",
        (OTHERS,),
    ),
    (
        "a cache is trusted whatever it gives",
        "logratio.generation.engines.uncached_decoding:supports_kv_cache",
        "_trusted[model] = not reason",
        "_trusted[model] = True",
        (OTHERS,),
    ),
    (
        "rows that are read again stand in the order of their lengths",
        "logratio.generation.engines.uncached_decoding:UncachedRows._read",
        "torch.stack([found[number] for number in range(len(self._rows))])",
        "torch.stack(list(found.values()))",
        (ANY_LENGTHS,),
    ),
    (
        "rows that have ended are read on in the place of others",
        "logratio.generation.engines.uncached_decoding:UncachedRows.select_rows",
        "self._rows = [self._rows[number] for number in rows.tolist()]",
        "self._rows = self._rows[: len(rows)]",
        (AGAIN,),
    ),
    (
        "all answers to a prompt have one seed",
        f"{SAMPLING}:answer_seed",
        'f"{seed}:{prompt.key}:{answer}"',
        'f"{seed}:{prompt.key}"',
        ("generation/test_sampler.py::test_seeds_differ_by_run_prompt_and_number_and_survive_json",),
    ),
    (
        "a label's noise ignores the temperature",
        f"{LABELLING}:label_probability",
        "scaled = difference / temperature",
        "scaled = difference * 1.0",
        ("rollouts/test_pair_labelling.py::test_probability_by_hand",),
    ),
)

PITFALLS = (*OF_TOKENS, *OF_SAMPLING)
MUTANTS = tuple(
    Mutant(name=name, symbol=symbol, old=old, new=new, checks=checks)
    for name, symbol, old, new, checks in PITFALLS
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_the_pitfall_is_noticed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []


@pytest.mark.slow
def test_the_same_tests_pass_on_an_unchanged_copy(tmp_path):
    assert unsound(MUTANTS, tmp_path) == []
