"""Markdown as a tree, and the raw view: exact trees, hostile text, nothing lost, time linear in length."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from logratio.annotate.domain.invisible_characters import MAX_MARKS, is_invisible
from logratio.annotate.web.markdown import MAX_CHARACTERS, MAX_DEPTH, MAX_LEVEL, parse, raw

KINDS = {
    *("paragraph", "heading", "list", "item", "quote", "code", "table", "row", "cell", "rule"),
    *("text", "bold", "italic", "inline_code", "break"),
}


def text(content):
    return {"kind": "text", "text": content}


def paragraph(*children):
    return {"kind": "paragraph", "children": list(children)}


def bold(*children):
    return {"kind": "bold", "children": list(children)}


def italic(*children):
    return {"kind": "italic", "children": list(children)}


def item(*children):
    return {"kind": "item", "children": list(children)}


def cell(content, align=""):
    return {"kind": "cell", "align": align, "children": [text(content)] if content else []}


def inline(source):
    """The nodes of one paragraph."""
    (node,) = parse(source)
    assert node["kind"] == "paragraph"
    return node["children"]


def nodes_of(tree):
    for node in tree:
        yield node
        yield from nodes_of(node.get("children", []))


def depth_of(tree):
    return max((1 + depth_of(node.get("children", [])) for node in tree), default=0)


def words_of(tree):
    """Everything that a tree shows."""
    return "".join(node.get("language", "") + node.get("text", "") for node in nodes_of(tree))


def kept(shown):
    """What is no markup: letters, and all signs beyond ASCII."""
    return "".join(one for one in shown if one.isalpha() or (one > "\x7f" and not one.isspace()))


# --- within a line ---


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", [text("plain")]),
        ("a **b** c", [text("a "), bold(text("b")), text(" c")]),
        ("*a* _b_", [italic(text("a")), text(" "), italic(text("b"))]),
        ("__a__", [bold(text("a"))]),
        ("***a***", [italic(bold(text("a")))]),
        ("****a****", [bold(bold(text("a")))]),
        ("***a* b**", [bold(italic(text("a")), text(" b"))]),
        ("**a *b***", [bold(text("a "), italic(text("b")))]),
        ("*a **b** c*", [italic(text("a "), bold(text("b")), text(" c"))]),
        ("`a*b*`", [{"kind": "inline_code", "text": "a*b*"}]),
        ("``a ` b``", [{"kind": "inline_code", "text": "a ` b"}]),
        ("`` `a` ``", [{"kind": "inline_code", "text": "`a`"}]),
        ("a\nb", [text("a"), {"kind": "break"}, text("b")]),
        (r"\*a\*", [text("*a*")]),
    ],
)
def test_what_is_read(source, expected):
    assert inline(source) == expected


@pytest.mark.parametrize(
    "source",
    [
        "2 * 3 * 4",
        "2*3*4",
        "snake_case_name",
        "a **b",
        "*a _b",
        "**",
        "`a",
        "``a`",
        "~~a~~",
        "&amp; &lt;",
        "$x_1 + y_2$",
        "<b>a</b>",
        "[a] (b)",
        "[a](b c)",
        "C:\\path\\file",
    ],
)
def test_what_is_not_read_stays_as_written(source):
    assert inline(source) == [text(source)]


def test_an_unclosed_mark_between_closed_ones():
    assert inline("**a *b c** d") == [text("*"), italic(text("a "), italic(text("b c"))), text(" d")]


def test_bold_within_a_word_and_not_italic():
    assert inline("**un**done") == [bold(text("un")), text("done")]
    assert inline("*un*done") == [text("*un*done")]
    assert inline("*2*3* is 6") == [italic(text("2*3")), text(" is 6")]


def test_marks_of_two_kinds_that_cross_close_the_outer_one():
    assert inline("*a _b* c_") == [italic(text("a _b")), text(" c_")]


# --- links and images ---


def test_a_link_is_its_text_and_its_address():
    assert inline("see [the *book*](https://e.org/x_y)!") == [
        text("see the "),
        italic(text("book")),
        text(" (https://e.org/x_y)!"),
    ]


def test_a_link_without_text_and_one_that_shows_its_address():
    assert inline("[](https://e.org)") == [text("(https://e.org)")]
    assert inline("[https://e.org](https://e.org)") == [text("https://e.org")]


@pytest.mark.parametrize(
    "source",
    [
        "![alt](https://evil.example/p.png)",
        "<https://evil.example>",
        "<img src=x onerror=alert(1)>",
        "<script>alert(1)</script>",
        "<svg/onload=alert(1)>",
        "{{7*7}} {% raw %} ${7*7}",
        "[a]: https://evil.example",
        "![a][b]",
    ],
)
def test_hostile_text_is_one_piece_of_text(source):
    assert inline(source) == [text(source)]


@pytest.mark.parametrize("scheme", ["javascript", "JaVaScRiPt", "vbscript", "data", "file"])
def test_a_link_of_an_unsafe_scheme_stays_as_written(scheme):
    assert inline(f"[click]({scheme}:alert%281%29)") == [text(f"[click]({scheme}:alert%281%29)")]


def test_a_links_address_and_title_stand_as_they_were_written():
    assert inline('[a](<b c> "d *e*")') == [text('a (<b c> "d *e*")')]
    assert inline("[a](/x&#8238;y%20z_w_v)") == [text("a (/x&#8238;y%20z_w_v)")]
    assert inline("[*a*][b]") == [text("["), italic(text("a")), text("][b]")]


def test_reference_definitions_are_text():
    assert parse("[a]\n\n[a]: https://e.org 'title'") == [
        paragraph(text("[a]")),
        paragraph(text("[a]: https://e.org 'title'")),
    ]


# --- blocks ---


def test_headings_and_rules():
    assert parse("# A\n### B ###\n#C\n\n---\n* * *") == [
        {"kind": "heading", "level": 1, "children": [text("A")]},
        {"kind": "heading", "level": 3, "children": [text("B")]},
        paragraph(text("#C")),
        {"kind": "rule"},
        {"kind": "rule"},
    ]


def test_lists_within_lists():
    source = "1. a\n   - b\n   - c\n\n     more\n2. d\ngoes on\n\nafter"
    assert parse(source) == [
        {
            "kind": "list",
            "ordered": True,
            "start": 1,
            "children": [
                item(
                    paragraph(text("a")),
                    {
                        "kind": "list",
                        "ordered": False,
                        "children": [
                            item(paragraph(text("b"))),
                            item(paragraph(text("c")), paragraph(text("more"))),
                        ],
                    },
                ),
                item(paragraph(text("d"), {"kind": "break"}, text("goes on"))),
            ],
        },
        paragraph(text("after")),
    ]


def test_a_list_goes_on_after_blank_lines_and_keeps_its_first_number():
    (node,) = parse("7) a\n\n8) b")
    assert (node["start"], len(node["children"])) == (7, 2)
    assert [node["kind"] for node in parse("- a\n* b")] == ["list", "list"]


def test_code_in_a_fence_is_untouched():
    source = "```python title\nx = '**a**'\n\n    # <b>\n```\nb"
    assert parse(source) == [
        {"kind": "code", "language": "python title", "text": "x = '**a**'\n\n    # <b>"},
        paragraph(text("b")),
    ]


def test_a_fence_that_is_never_closed_holds_the_rest():
    assert parse("~~~\n# a\n\n- b") == [{"kind": "code", "language": "", "text": "# a\n\n- b"}]


def test_a_fence_in_an_item_with_lines_that_are_not_indented_less():
    (node,) = parse("- a\n  ```\n  x\n\n    y\n  ```\n- b")
    first, second = node["children"]
    assert first["children"][1] == {"kind": "code", "language": "", "text": "x\n\n  y"}
    assert second == item(paragraph(text("b")))


def test_indented_code():
    assert parse("    a\n\n      b\nc") == [
        {"kind": "code", "language": "", "text": "a\n\n  b"},
        paragraph(text("c")),
    ]


def test_a_table():
    source = "| a | b | c |\n|---|:-:|--:|\n| 1 | x \\| y |\n2 | | 3 | 4\nlast\n\nno row"
    assert parse(source) == [
        {
            "kind": "table",
            "children": [
                {"kind": "row", "children": [cell("a"), cell("b", "center"), cell("c", "right")]},
                {"kind": "row", "children": [cell("1"), cell("x | y", "center")]},
                {
                    "kind": "row",
                    "children": [cell("2"), cell("", "center"), cell("3 | 4", "right")],
                },
                {"kind": "row", "children": [cell("last")]},
            ],
        },
        paragraph(text("no row")),
    ]


def test_no_table_where_columns_differ():
    assert [node["kind"] for node in parse("a | b\n---\nc")] == ["heading", "paragraph"]
    assert [node["kind"] for node in parse("a | b\n|-|-|-|")] == ["paragraph"]


def test_quotes():
    assert parse("> a\n> - b\n\nc") == [
        {
            "kind": "quote",
            "children": [
                paragraph(text("a")),
                {"kind": "list", "ordered": False, "children": [item(paragraph(text("b")))]},
            ],
        },
        paragraph(text("c")),
    ]


def test_white_space_alone_is_nothing():
    assert parse("") == parse(" \n\t\n\r\n") == []


# --- hostile text ---

LONG = 1_000_000
HOSTILE = {
    "one line": "a" * LONG,
    "stars": "**a " * (LONG // 4),
    "closers": "a* " * (LONG // 3),
    "both ways": "a*b" * (LONG // 3),
    "underscores": "_a" * (LONG // 2),
    "back-ticks": "`a``b" * (LONG // 5),
    "brackets": "[" * LONG,
    "half links": "[a](" * (LONG // 4),
    "links": "[a](b)" * (LONG // 6),
    "quotes": ">" * LONG,
    "quotes line by line": "> > > > > > > > > > > a\n" * (LONG // 24),
    "line ends": "\n" * LONG,
    "items": "- a\n" * (LONG // 4),
    "deep items": "".join(" " * (2 * depth) + "- a\n" for depth in range(LONG // 1000)),
    "blank lines in an item": "- a\n" + "\n" * LONG + "  b",
    "a spoilt fence": "```" + " a" * (LONG // 2) + "`",
    "fences": "```\n" * (LONG // 4),
    "a wide table": "|" * (LONG // 2) + "\n" + "|-" * (LONG // 4),
    "a wide row": "a|b\n-|-\n" + "|" * LONG,
    "rows": "a|b\n-|-\n" + "a|b\n" * (LONG // 4),
    "tables": "a|b\n-|-\n" * (LONG // 8),
    "a spoilt rule": "- " * (LONG // 2) + "x",
    "spaces": " " * LONG + "x",
    "back-slashes": "\\" * LONG,
    "zero width": "a\u200b" * (LONG // 2),
    "zero width alone": "\u200b\u200c" * (LONG // 2),
    "terminal escapes": "\x1b[31m" * (LONG // 5),
    "half escapes": "\x1b[" + "0" * LONG,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_million_characters_give_a_bounded_tree_in_bounded_time(name):
    source = HOSTILE[name]
    began = time.process_time()
    tree, runs = parse(source), raw(source)
    # Some 0.1 to 1.5 s; a quadratic way takes hours.
    assert time.process_time() - began < 20
    assert sum(1 for _ in nodes_of(tree)) < 2 * MAX_CHARACTERS
    assert len(runs) <= 2 * MAX_MARKS + 2
    assert depth_of(tree) <= MAX_DEPTH
    assert kept(words_of(tree)) == kept(source)


NESTED = {
    "brackets": "[" * 10_000,
    "links": "[a" * 10_000 + "](b)" * 10_000,
    "images": "![a" * 10_000 + "](b)" * 10_000,
    "marks that open": "*a " * 10_000,
    "marks that close": "*a " * 10_000 + "b* " * 10_000,
    "quotes": ">" * 10_000 + "a",
    "lists": "- " * 10_000 + "a",
    "quotes of lists": "> - " * 10_000 + "a",
    "fences": "".join("`" * length + "a\n" for length in range(3, 140)),
}


@pytest.mark.parametrize("name", NESTED)
def test_ten_thousand_inside_one_another_take_a_moment_and_lose_nothing(name):
    began = time.process_time()
    tree = parse(NESTED[name])
    # Some 0.02 to 0.5 s.
    assert time.process_time() - began < 3
    assert depth_of(tree) <= MAX_DEPTH
    assert kept(words_of(tree)) == kept(NESTED[name])
    json.dumps(tree)


@pytest.mark.parametrize("source", ["[a](" * 5_000, "**a " * 5_000, "- a\n" * 5_000, "a*b" * 5_000])
def test_time_doubles_where_the_text_doubles(source):
    def seconds(one):
        began = time.process_time()
        parse(one)
        return time.process_time() - began

    single = min(seconds(source) for _ in range(3))
    double = min(seconds(source + source) for _ in range(3))
    assert double < 3.5 * single + 0.1


def test_what_lies_deeper_than_quotes_and_lists_may_is_text():
    quoted = parse("> " * 30 + "*a*")
    assert [node["kind"] for node in nodes_of(quoted)].count("quote") == MAX_LEVEL
    assert words_of(quoted) == "> " * (30 - MAX_LEVEL) + "a"
    listed = parse("- " * 30 + "*a*")
    assert [node["kind"] for node in nodes_of(listed)].count("list") == MAX_LEVEL // 2
    assert words_of(listed) == "- " * (30 - MAX_LEVEL // 2) + "a"


def test_marks_that_lie_too_deep_are_text():
    num = 2 * MAX_DEPTH
    tree = parse("*a " * num + "b* " * num)
    assert depth_of(tree) == MAX_DEPTH
    deep = words_of(tree).count("*")
    assert deep == 2 * (num - (MAX_DEPTH - 2))


def test_nothing_is_lost_where_reading_ends():
    source = "*a* " * MAX_CHARACTERS + "the end"
    assert words_of(parse(source)).endswith("*a* the end")
    lines = "*a*\n" * MAX_CHARACTERS + "the end"
    *_, rest = parse(lines)
    assert words_of([rest]).startswith("*a*\n")
    assert words_of([rest]).endswith("*a*\nthe end")
    assert kept(words_of(parse(lines))) == kept(lines)


def test_short_rows_are_not_filled_up():
    wide = "|a" * 300 + "|\n" + "|-" * 300 + "|\n" + "|b\n" * 1000
    # The library ends a table where it has filled up 65,536 cells; what follows is a paragraph.
    node, rest = parse(wide)
    assert [len(row["children"]) for row in node["children"]] == [300, *[1] * (0x10000 // 299)]
    assert kept(words_of([node, rest])) == kept(wide)


def test_cells_behind_the_last_column_are_part_of_it():
    (node,) = parse("a|b\n-|-\n" + "x|" * 1000)
    row = node["children"][1]["children"]
    assert len(row) == 2
    assert words_of(row[-1:]).count("x") == 999


@settings(max_examples=300, deadline=None)
@given(
    st.text(alphabet=st.sampled_from("ab *_`[]()!#>-|:\\\n\t1.~+=<&;\"'\u200b\u202e\ud800é"), max_size=200)
)
def test_any_text_gives_known_kinds_and_can_be_sent(source):
    tree, runs = parse(source), raw(source)
    for node in nodes_of(tree):
        assert node["kind"] in KINDS
        assert isinstance(node.get("text", ""), str)
    json.dumps([tree, runs], ensure_ascii=False).encode()
    assert set(words_of(tree)) <= set(source.replace("\ud800", "\ufffd")) | {" "}
    assert kept(words_of(tree)) == kept(source.replace("\ud800", "\ufffd"))
    if all(not is_invisible(one) for one in source):
        assert "".join(run["text"] for run in runs) == source


PIECES = (
    *(
        "> ",
        "- ",
        "* ",
        "12. ",
        "# ",
        "    ",
        "\t",
        "```py x\n",
        "~~~",
        "---",
        "===",
        "\n",
        "\n\n",
        "\n\n",
        " ",
    ),
    *(
        "a|b",
        "|-|:-:|",
        "\n-|-\n",
        "c | d | e",
        "\\|",
        "\\",
        "  \n",
        "!",
        "[f]",
        "](",
        "[g](h)",
        "![i](j)",
        ")",
    ),
    *(
        "[k](<l m> 'n')",
        "[o]: p 'q'",
        "[r][s]",
        "<t>",
        "<!--",
        "-->",
        "<https://u>",
        "&amp;",
        "&#65;",
        "`",
        "``",
    ),
    *("*", "**", "_", "__", "***", "v", "w x", "é中", "\u200b", "<script>", "[y](javascript:z)", "~~", "$"),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_nothing_of_an_answer_is_lost(source):
    assert kept(words_of(parse(source))) == kept(source)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet=st.characters(categories=["L", "N"]), min_size=1, max_size=100))
def test_letters_and_digits_come_through(source):
    assert words_of(parse(source)) == source


# --- the raw view ---


@pytest.mark.parametrize(
    ("source", "name", "code"),
    [
        ("\u202e", "RIGHT-TO-LEFT OVERRIDE", "U+202E"),
        ("\u200b\u200b\u200b", "ZERO WIDTH SPACE × 3", "U+200B"),
        ("\u200b\u2066", "ZERO WIDTH SPACE, LEFT-TO-RIGHT ISOLATE", "U+200B U+2066"),
        ("\x00", "NULL", "U+0000"),
        ("\x1b", "ESCAPE", "U+001B"),
        ("\x7f", "DELETE", "U+007F"),
        ("\x1b[1;31m", "TERMINAL ESCAPE 1;31m", "U+001B"),
        ("\x9b2J", "TERMINAL ESCAPE 2J", "U+009B"),
        ("\x85", "CONTROL U+0085", "U+0085"),
        ("\ud83d", "HALF A SURROGATE PAIR U+D83D", "U+D83D"),
        ("\ue000", "PRIVATE USE U+E000", "U+E000"),
        ("\u0378", "NOT ASSIGNED U+0378", "U+0378"),
        ("\u3164", "HANGUL FILLER", "U+3164"),
        ("\u2003", "EM SPACE", "U+2003"),
        ("\U000e0041", "TAG LATIN CAPITAL LETTER A", "U+E0041"),
        ("\u2028", "LINE SEPARATOR", "U+2028"),
    ],
)
def test_what_does_not_show_is_named(source, name, code):
    mark = {"kind": "mark", "code": code, "name": name, "expected": False}
    assert raw(f"a{source}b") == [text("a"), mark, text("b")]


@pytest.mark.parametrize("source", ["\u200d", "\ufe0f", "\u00a0", "\r"])
def test_what_honest_text_holds_is_marked_as_expected(source):
    assert [run["expected"] for run in raw(f"a{source}b") if run["kind"] == "mark"] == [True]


def test_the_raw_view_keeps_what_shows():
    source = "**a** <b>\n\tünï 中文 [x](y)"
    assert raw(source) == [text(source)]


def test_neighbouring_terminal_escapes_are_marks_of_their_own():
    names = [run["name"] for run in raw("\x1b[31m\x1b[0m\u200b\x1b[1m") if run["kind"] == "mark"]
    assert names == ["TERMINAL ESCAPE 31m", "TERMINAL ESCAPE 0m", "ZERO WIDTH SPACE", "TERMINAL ESCAPE 1m"]


def test_after_many_marks_the_rest_is_written_out():
    runs = raw("a\u200b" * (MAX_MARKS + 3))
    assert sum(run["kind"] == "mark" for run in runs) == MAX_MARKS
    assert runs[-1]["text"] == "⟨U+200B⟩a⟨U+200B⟩a⟨U+200B⟩"
