"""Names in one form: what is the same is one, what only looks the same is named and stays two."""

import pytest

from logratio.data.normalised_names import NameForms, lookalikes, tidy

COMPOSED, DECOMPOSED = "Jos\u00e9", "Jose\u0301"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("anna", "anna"),
        (" anna\t", "anna"),
        ("anna \u00a0 b", "anna b"),
        ("\u3000anna\n", "anna"),
        (DECOMPOSED, COMPOSED),
        ("\u212b", "\u00c5"),
        # Other characters than they look like are other names.
        ("ＧＰＴ", "ＧＰＴ"),
        ("an\u200bna", "an\u200bna"),
        ("Anna", "Anna"),
        ("", ""),
    ],
)
def test_names_are_composed_and_have_single_spaces(given, expected):
    assert tidy(given) == expected


def test_what_was_done_to_names_is_counted_with_the_first_place():
    forms = NameForms()
    given = ["x", " x", DECOMPOSED, "x  ", COMPOSED, "y"]
    found = [forms.tidy(name, where=f"f:{line}") for line, name in enumerate(given, start=1)]
    assert found == ["x", "x", COMPOSED, "x", COMPOSED, "y"]
    assert forms.names == {"x", COMPOSED, "y"}
    spaced, composed = forms.remarks()
    assert spaced.startswith("2 times a name stood with further white space")
    assert "(the first at f:2)" in spaced
    assert composed.startswith("1 times a name was in another Unicode form than NFC")
    assert "(the first at f:3)" in composed


def test_tidy_names_have_no_remark():
    forms = NameForms()
    forms.tidy("anna", where="f:1")
    assert forms.remarks() == []


@pytest.mark.parametrize(
    ("names", "difference"),
    [
        (("Anna", "anna"), "capitals"),
        (("STRASSE", "straße"), "capitals"),
        (("GPT", "ＧＰＴ"), "the form of their characters, or in some that are not seen"),
        (("an\u200bna", "anna"), "the form of their characters, or in some that are not seen"),
        (("an\u202ena", "anna"), "the form of their characters, or in some that are not seen"),
        (("❤", "❤\ufe0f"), "the form of their characters, or in some that are not seen"),
        ((DECOMPOSED, COMPOSED), "their Unicode form or white space"),
        (("anna", "anna "), "their Unicode form or white space"),
    ],
)
def test_names_that_look_alike_are_named_and_stay_two(names, difference):
    (sentence,) = lookalikes([*names, "ben", "ben 2", "ann a", "1", "1.0"])
    assert f"differ only in {difference}, and count as two names" in sentence
    assert all(repr(name) in sentence for name in names)


def test_keywords_and_numbers_are_names_like_any_other():
    assert lookalikes(["tie", "none", "null", "nan", "true", "1", "2", "1.0", "model_a", "A", "B"]) == []
