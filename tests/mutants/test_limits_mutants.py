"""Pitfalls of what a model can read, each as a patch that a test must kill."""

import pytest

from mutants.harness import Mutant, survivors

LIMITS = "models/test_input_limits.py"

MUTANTS = (
    Mutant(
        name="the first token without an embedding is taken for one that has one",
        symbol="logratio.models.input_limits:ModelLimits.ensure_embedded",
        old="if not 0 <= token < self.embedding_rows)",
        new="if not 0 <= token <= self.embedding_rows)",
        checks=(f"{LIMITS}::test_a_row_with_a_token_that_has_no_embedding_is_left_out_by_line",),
    ),
    Mutant(
        name="the end token is not looked for among the embeddings",
        symbol="logratio.models.input_limits:_frame_tokens",
        old="    found = set() if tokenizer.eos_token_id is None else set(end_token_ids(tokenizer))\n",
        new="    found = set()\n",
        checks=(f"{LIMITS}::test_a_turn_s_end_without_an_embedding_is_refused_too",),
    ),
    Mutant(
        name="learned positions are taken for ones that go on",
        symbol="logratio.models.config_limits:limits_of_config",
        old=("        positions_hard_limit=positions is not None and not ropes,\n"),
        new=("        positions_hard_limit=False,\n"),
        checks=(f"{LIMITS}::test_a_configuration_says_what_its_model_reads",),
    ),
    Mutant(
        name="rotary embeddings that stretch are taken for fixed ones",
        symbol="logratio.models.config_limits:_stretch",
        old='    if kind == "longrope":\n',
        new='    if kind == "":\n',
        checks=(
            f"{LIMITS}::test_a_configuration_says_what_its_model_reads",
            f"{LIMITS}::test_no_number_within_the_positions_depends_on_what_stands_beside",
        ),
    ),
    Mutant(
        name="rows that only pad are taken for tokens",
        symbol="logratio.models.reward_model:_widen",
        old="    setattr(model.config, KNOWN_ROWS, before)\n",
        new="",
        checks=(f"{LIMITS}::test_rows_that_only_pad_stand_for_no_token",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
