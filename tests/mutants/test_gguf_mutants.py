"""Ways to lose what a GGUF file says, each built in on purpose."""

import pytest

from mutants.harness import Mutant, survivors, unsound

ROPE, SETTINGS = "logratio.models.gguf.rope", "logratio.models.gguf.settings"
TENSORS, TOKENS = "logratio.models.gguf.tensors", "logratio.models.gguf.tokens"

SAME = "test_a_file_gives_the_log_probabilities_of_the_model_that_it_was_made_from"

# What is wrong | symbol | text | what stands there instead | tests that must fail
PITFALLS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    (
        "rope scaling is dropped [transformers]",
        f"{SETTINGS}:_fit_rope",
        "    config.rope_parameters = kept | new\n",
        '    config.rope_parameters = kept | {"rope_theta": rope.theta, "rope_type": "default"}\n',
        (f"models/gguf/test_rope.py::{SAME}",),
    ),
    (
        "a factor without a type is no scaling",
        f"{ROPE}:read_rope",
        'metadata.get("scaling.type", "linear")',
        'metadata.get("scaling.type", "none")',
        (f"models/gguf/test_rope.py::{SAME}",),
    ),
    (
        "any table is taken for Llama 3's",
        f"{ROPE}:_llama3",
        "if not np.allclose(1 / ((1 - share) / largest + share), factors, rtol=ROUNDING, atol=0):",
        "if largest <= 1.0:",
        (f"models/gguf/test_rope.py::{SAME}",),
    ),
    (
        "a key that nobody knows passes",
        f"{SETTINGS}:_reflected",
        "    if name is None:\n        return value in OFF",
        "    if name is None:\n        return True or value in OFF",
        ("models/gguf/test_settings.py::test_a_value_that_the_model_would_not_have_is_refused_by_name",),
    ),
    (
        "tensors that no weight takes are left out",
        f"{TENSORS}:check_tensors",
        "extra = [name for name in used if name not in names]",
        "extra = []; used = {name: tensor for name, tensor in used.items() if name in names}",
        ("models/gguf/test_header.py::test_tensors_that_do_not_fit_are_named",),
    ),
    (
        "the end of a turn ends no answer",
        f"{TOKENS}:turn_ends",
        'found = [metadata.get(f"ggml.{key}") for key in ("eos_token_id", *TURN_ENDS)]',
        'found = [metadata.get(f"ggml.{key}") for key in ("eos_token_id",)]',
        ("models/gguf/test_tokens.py::test_the_ends_of_a_turn_stop_answers_too",),
    ),
)
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
