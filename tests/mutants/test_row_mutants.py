"""Pitfalls of rows that cannot be used: lost without a word, counted twice, or the end of a whole job."""

import pytest

from mutants.harness import Mutant, survivors

ROWS = "cli/test_unusable_rows.py::test_"
READING = "data/test_jsonl.py::test_"

MUTANTS = (
    Mutant(
        name="a prompt's length is not looked at before the model is loaded",
        symbol="logratio.recipes.prompts:answerable.check",
        old="limits.ensure_prompt(tokenizer, encode_prompt(tokenizer, row.prompt), answer=max_new_tokens)",
        new="encode_prompt(tokenizer, row.prompt)",
        checks=(ROWS + "prompts_that_cannot_be_answered_are_left_out_and_named",),
    ),
    Mutant(
        name="a byte-order mark costs the first row",
        symbol="logratio.data.text_lines:without_mark",
        old="return content.removeprefix(UTF_8_MARK)",
        new="return content",
        checks=(READING + "a_byte_order_mark_at_the_beginning_is_passed_over",),
    ),
    Mutant(
        name="a row that was left out by its tokens is counted and not named",
        symbol="logratio.data.unusable_rows:ReadRows.keep",
        old="unusable=sorted(self.unusable + unusable, key=line_of)",
        new="unusable=self.unusable",
        checks=(ROWS + "prompts_that_cannot_be_answered_are_left_out_and_named",),
    ),
    Mutant(
        name="--strict is a flag that nothing reads",
        symbol="logratio.recipes.rows:RowConfig.ensure",
        old="if self.strict and unusable:",
        new="if False:",
        checks=(ROWS + "strict_ends_before_a_model_is_loaded",),
    ),
    Mutant(
        name="a few rows of a short file end the command",
        symbol="logratio.data.unusable_rows:too_many",
        old="num > max(MAX_SHARE * num_rows, FEW_ROWS)",
        new="num > MAX_SHARE * num_rows",
        checks=(ROWS + "the_share_that_may_be_left_out_is_one_rule",),
    ),
    Mutant(
        name="a token number beyond all ends the check",
        symbol="logratio.data.record_parsing:parse_completion",
        old=" <= LARGEST_TOKEN",
        new="",
        checks=(READING + "a_bad_answer_is_named_with_its_line_and_number",),
    ),
)


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_is_killed(mutant, tmp_path):
    assert survivors(mutant, tmp_path) == []
