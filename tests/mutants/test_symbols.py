"""The place of a definition in a source, and what is replaced there alone."""

import pytest

from mutants.symbols import definitions, find_symbol, replace_within

SOURCE = """A = 1
@decorated
def outer():
    def inner():
        return 1
    return inner


class Thing:
    size = 1

    @property
    def value(self):
        return 1

    @value.setter
    def value(self, new):
        self.size = new
"""


def test_names_are_qualified_and_decorators_belong_to_what_they_decorate():
    found = {name: SOURCE[span] for name, span in definitions(SOURCE)}
    assert list(found) == ["outer", "outer.inner", "Thing", "Thing.value"]
    assert found["outer"].startswith("@decorated\n")
    assert found["outer"].endswith("return inner\n")
    assert found["outer.inner"] == "    def inner():\n        return 1\n"


def test_a_property_with_its_setter_is_one_symbol():
    assert len(find_symbol(SOURCE, "Thing.value")) == 2
    assert replace_within(SOURCE, "Thing.value", "= new", "= 2") == SOURCE.replace("= new", "= 2")


def test_what_stands_in_other_definitions_too_is_replaced_in_its_own():
    assert replace_within(SOURCE, "outer.inner", "1", "2") == SOURCE.replace(
        "return 1\n    ret", "return 2\n    ret"
    )
    assert replace_within(SOURCE, "", "A = 1", "A = 2") == SOURCE.replace("A = 1", "A = 2")


@pytest.mark.parametrize(
    ("name", "old", "complaint"),
    [
        ("outer.inner", "size", "stands 0 times in outer.inner"),
        ("Thing", "1", "stands 2 times in Thing"),
        ("", "return 1", "stands 2 times in the module"),
        ("inner", "1", "nothing is named inner"),
    ],
)
def test_what_is_not_there_once_is_refused(name, old, complaint):
    with pytest.raises(LookupError, match=complaint):
        replace_within(SOURCE, name, old, "x")
