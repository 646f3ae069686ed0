"""The labelling page in a real browser: by keyboard alone, through crashes, with hostile text, to the ear."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from logratio.annotate.domain.export import make_export
from logratio.annotate.storage.snapshot import Snapshot
from logratio.annotate.storage.store import Store
from web.accessibility import assert_accessible, axe_script
from web.annotate_browser import GUARD_SECONDS, Person, browsing, serving

pytestmark = pytest.mark.web

NUM_PAIRS = 20

BREAD = """## Time does the work

Sourdough rises on **wild yeast**, and wild yeast is *slow*. While it works,\
 bacteria make the acids that give taste and keep the bread.

1. **Evening:** feed the starter.
2. **Morning:** mix `500 g` of flour, `350 g` of water, the starter and `10 g` of salt.
   - fold it every 30 minutes, four times
   - let it rest until it has grown by half
3. **Afternoon:** shape it and put it into the fridge.

| Stage | Hours | Temperature |
|:--|--:|--:|
| Bulk | 5 | 24 °C |
| Fridge | 12 | 4 °C |
| Oven | 0.75 | 240 °C |

> A cold night is worth more than a warm hour.

```python
def hydration(flour: float, water: float) -> float:
    # Water as a share of the flour, as bakers say it: a line that is longer than a card is wide.
    return water / flour
```

More in [the book](https://example.org/bread)."""
HASTE = """You can bake it the same day. The yeast is wild, so it takes longer than bought yeast does, but\
 six hours in a warm kitchen will do.

Mix everything in the morning, wait until the dough has doubled, and bake it hot. If it tastes flat, wait\
 longer the next time."""
TALK = [
    {"role": "system", "content": "You help people who bake at home."},
    {
        "role": "user",
        "content": "I have a sourdough starter and a free weekend. Why does it all take so long?",
    },
    {"role": "assistant", "content": "Because of the yeast. Shall I make a schedule for you?"},
    {"role": "user", "content": "Yes, please, with temperatures."},
]
GUIDE = """# What to prefer

Prefer the answer that **helps** the person who asked.

- Is it true?
- Is it complete?
"""
TALKS = [{"prompt": TALK, "chosen": BREAD, "rejected": HASTE}]

RAN = "window.ran=1;alert(1)"
HOSTILE = [
    f"<script>{RAN}</script>",
    f"<img src=x onerror='{RAN}'>",
    f"<svg/onload={RAN}><script href='data:,{RAN}'/></svg>",
    f"[click](javascript:{RAN}) [d](data:text/html,<script>{RAN}</script>)",
    f"![pixel](https://tracker.example/p.png) ![x](javascript:{RAN})",
    "<iframe src='https://evil.example'></iframe><link rel=stylesheet href=//evil.example/a.css>",
    f"</div></main><style>*{{display:none}}</style><body onload={RAN}><base href=//evil.example>",
    "{{7*7}} {% for x in [] %} ${7*7} <%= 7*7 %> #{7*7} {{constructor.constructor('" + RAN + "')()}}",
    "right to left \u202eevil\u202c \u2066isolate\u2069 zero\u200bwidth\u2060 \ufeff tag \U000e0041",
    "terminal \x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b2J bell \x07",
    f"```{RAN}\n</code></pre><script>{RAN}</script>\n```",
    f"| <img onerror={RAN} src=x> | b |\n|---|---|\n| [x](javascript:{RAN}) | `<b>` |",
    f"# <img src=x onerror={RAN}>\n- <a href='https://evil.example'>here</a>\n> <object data=x>",
    "https://evil.example <https://evil.example> //evil.example",
    "&lt;script&gt;&#x3c;img src=x onerror=alert(1)&#x3e; \u2028 \ud7ff \uffff",
]
LONG = {"prompt": "p", "chosen": "x" * 1_000_000, "rejected": "y"}
FORBIDDEN = (
    "script, img, svg, a, iframe, object, embed, link, style, form, base, meta, video, audio, "
    "[style], [src], [href]"
)


@pytest.fixture(scope="module")
def browser():
    with browsing() as opened:
        yield opened


def comparisons(num):
    """Pairs whose answers say which pair they are of."""
    return [
        {
            "prompt": f"Question {one}?",
            "chosen": f"Answer {one} of kind X",
            "rejected": f"Answer {one} of kind Y",
        }
        for one in range(num)
    ]


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    path = tmp_path_factory.mktemp("guide") / "guide.md"
    path.write_text(GUIDE)
    return path


# --- the whole way ---


@pytest.mark.slow
def test_twenty_pairs_by_keyboard_alone(browser, tmp_path):
    """With an undo, a reload, and a server that is killed and started anew: the export holds all."""
    said = {}
    with serving(tmp_path, comparisons(NUM_PAIRS)) as server:
        anna = Person(browser, server)
        anna.wait_for_pair()

        def judge(key):
            left, right = anna.read()
            said[left.split()[1]] = {"1": left, "2": right}.get(key, key)
            return key

        for key in "121201":
            anna.decide(judge(key))
        before = anna.read()
        anna.decide("u")
        assert anna.text("#status") == "Undone: this is the pair of your last verdict."
        assert anna.text("#count") == "5 of 20 pairs done"
        anna.decide(judge("2"))
        assert anna.read() == before
        for key in "9s1":
            anna.decide(judge(key))

        anna.page.reload()
        anna.wait_for_pair()
        shown = anna.read()
        anna.page.reload()
        anna.wait_for_pair()
        assert anna.read() == shown
        for key in "12f2":
            anna.decide(judge(key))

        server.kill()
        anna.press(judge("1"))
        anna.page.wait_for_selector("#banner p")
        assert anna.text("#banner p").startswith("1 verdict is not saved yet: the server does not answer.")
        anna.press("2", "0", "u")
        assert (anna.unsaved(), len(server.votes())) == (1, 13)
        server.start()
        anna.until("document.querySelector('#banner').innerText.includes('no longer valid')")
        assert "Open the new link" in anna.text("#banner p")
        assert "1 verdict is not saved yet: this browser keeps it" in anna.text("#banner p")
        assert anna.unsaved() == 1
        anna.open()
        anna.wait_for_pair()
        assert anna.text("#status") == "What this browser had kept is saved now."
        assert (anna.unsaved(), len(server.votes()), anna.text("#banner")) == (0, 14, "")

        for key in "121212":
            anna.decide(judge(key))
        assert anna.text("#message-title") == "All done. Thank you!"
        assert "20 verdicts of yours are saved." in anna.text("#message-text")
        assert len(server.votes()) == len(said) == NUM_PAIRS
        assert len(server.log()) == NUM_PAIRS + 2
        assert_exported(server.store, said)


def assert_exported(path, said):
    with Store.open(path) as store:
        export = make_export(Snapshot.of(store))
    rows = [json.loads(line) for line in export.files["comparisons.jsonl"].splitlines()]
    preferred = {name: answer for name, answer in said.items() if len(answer) > 1}
    assert {row["chosen"].split()[1]: row["chosen"] for row in rows} == preferred
    assert all(row["chosen"][:-1] == row["rejected"][:-1] for row in rows)
    assert len(rows) == NUM_PAIRS - 4
    assert export.manifest["pairs"]["in"] == NUM_PAIRS
    assert sum(export.manifest["pairs"]["dropped"].values()) == 4


def test_a_verdict_in_flight_when_the_server_dies_counts_once(browser, tmp_path):
    """The server writes the verdict, and its answer never arrives: the same nonce again is the same one."""
    with serving(tmp_path, comparisons(2)) as server:
        anna = Person(browser, server)
        anna.wait_for_pair()

        def swallow(route):
            route.fetch()
            route.abort()

        anna.page.route("**/api/vote", swallow, times=1)
        anna.decide("1")
        assert (len(server.log()), anna.unsaved()) == (1, 0)
        anna.page.route("**/api/vote", lambda route: route.fulfill(status=200, body='{"vote": 1'), times=1)
        anna.decide("2")
        assert (len(server.log()), anna.unsaved()) == (2, 0)


def test_one_persons_verdict_is_never_sent_as_anothers(browser, tmp_path):
    with serving(tmp_path, comparisons(4), annotators="anna,ben") as server:
        anna = Person(browser, server)
        anna.wait_for_pair()
        server.kill()
        anna.press("1")
        anna.page.wait_for_selector("#banner p")
        server.start()
        anna.open("ben")
        anna.wait_for_pair()
        assert anna.text("#banner p").startswith("1 verdict of another person is not saved yet")
        anna.decide("2")
        assert [vote.annotator for vote in server.votes()] == ["ben"]
        anna.open("anna")
        anna.wait_for_pair()
        assert [vote.annotator for vote in server.votes()] == ["ben", "anna"]
        assert (anna.text("#banner"), anna.unsaved()) == ("", 0)


def test_a_page_waits_while_anothers_link_is_open_in_its_browser(browser, tmp_path):
    """Both pages send the one cookie there is, the last person's: no verdict is taken for theirs."""
    with serving(tmp_path, comparisons(4), annotators="anna,ben") as server:
        anna = Person(browser, server)
        anna.wait_for_pair()
        other = anna.context.new_page()
        other.goto(server.links["ben"])
        other.wait_for_selector("#pair:not([hidden])")
        anna.press("1")
        anna.page.wait_for_selector("#banner p")
        assert "Another person's link was opened in this browser" in anna.text("#banner p")
        assert (server.votes(), anna.unsaved()) == ([], 1)
        other.goto(server.links["anna"])
        anna.until("document.querySelector('#banner').innerText.trim() === ''")
        assert [vote.annotator for vote in server.votes()] == ["anna"]
        assert anna.unsaved() == 0


def test_a_verdict_that_the_server_refuses_is_kept_until_it_is_given_up(browser, tmp_path):
    refusal = {"status": 400, "content_type": "application/json", "body": '{"code": "HostileRequest"}'}
    with serving(tmp_path, comparisons(2)) as server:
        anna = Person(browser, server)
        anna.wait_for_pair()
        anna.page.route("**/api/vote", lambda route: route.fulfill(**refusal))
        anna.press("1")
        anna.page.wait_for_selector("#banner p")
        assert anna.text("#banner p") == "1 verdict is not saved yet: the server refuses it (HostileRequest)."
        anna.page.get_by_role("button", name="Try again").click()
        anna.page.get_by_role("button", name="Give it up").wait_for()
        assert anna.unsaved() == 1
        anna.page.get_by_role("button", name="Give it up").click()
        anna.until("!document.querySelector('#choices [aria-disabled]')")
        assert (anna.unsaved(), server.votes(), anna.text("#banner")) == (0, [], "")


def test_who_waits_is_told_until_when_and_gets_the_pair_that_comes_free(browser, tmp_path):
    with serving(tmp_path, comparisons(2), annotators="anna,ben") as server:
        anna, ben = Person(browser, server), Person(browser, server, "ben")
        anna.wait_for_pair()
        ben.wait_for_pair()
        anna.decide("1")
        assert anna.text("#message-title") == "Nothing for you just now"
        assert anna.text("#message-text").startswith("1 pair is with other people now, at the latest until ")
        ben.decide("s")
        anna.page.wait_for_selector("#pair:not([hidden])", timeout=60_000)
        assert anna.text("#status") == "A pair has come."


# --- keys ---


@pytest.fixture(scope="module")
def asked(guide, tmp_path_factory):
    """A server that asks for strength and reasons, with more pairs than the tests below use."""
    flags = ("--strength", "--reasons", "wrong,rude,{{7*7}}", "--guidelines", str(guide))
    with serving(tmp_path_factory.mktemp("asked"), comparisons(60), *flags) as server:
        yield server


@pytest.fixture
def anna(browser, asked):
    person = Person(browser, asked)
    person.wait_for_pair()
    yield person
    person.context.close()


KEYDOWN = "(options) => document.dispatchEvent(new KeyboardEvent('keydown', {bubbles: true, ...options}))"


def test_strength_reasons_and_note_arrive(anna, asked):
    anna.press("w", "Space", "Tab", "Tab", "Space", "n")
    assert anna.focused() == "note"
    anna.page.keyboard.type("12 sfug? R0")
    anna.press("Escape")
    assert (anna.focused(), anna.page.get_attribute("#raw", "aria-pressed")) == ("question", "false")
    anna.decide("Shift+Digit2")
    vote = asked.votes()[-1]
    assert (vote.strength, vote.reasons, vote.note) == (3, ("wrong", "{{7*7}}"), "12 sfug? R0")
    assert vote.left_won is False
    assert 100 < vote.milliseconds < 60_000
    anna.decide("1")
    vote = asked.votes()[-1]
    assert (vote.strength, vote.reasons, vote.note, vote.left_won) == (2, (), "", True)


def test_an_undo_brings_reasons_and_note_back(anna):
    anna.press("w", "Space", "n")
    anna.page.keyboard.type("a note")
    anna.press("Escape")
    anna.decide("0")
    assert anna.page.input_value("#note") == ""
    anna.decide("u")
    assert anna.page.input_value("#note") == "a note"
    assert anna.page.eval_on_selector_all(
        "#reason-list input:checked", "all => all.map(one => one.value)"
    ) == ["wrong"]


def test_keys_that_decide_nothing(anna, asked):
    before = len(asked.log())
    anna.page.evaluate(KEYDOWN, {"key": "1", "code": "Digit1", "repeat": True})
    anna.page.evaluate(KEYDOWN, {"key": "1", "code": "Digit1", "isComposing": True})
    for modifier in ("ctrlKey", "altKey", "metaKey"):
        anna.page.evaluate(KEYDOWN, {"key": "1", "code": "Digit1", modifier: True})
    anna.page.evaluate(KEYDOWN, {"key": "End", "code": "Numpad1"})
    anna.press("3", "Shift+Digit0", "Enter", "Space", "x")
    anna.press("?", "1", "2", "Escape")
    time.sleep(GUARD_SECONDS)
    assert len(asked.log()) == before


@pytest.mark.parametrize(
    ("options", "left_won", "strength"),
    [
        ({"key": "1", "code": "Numpad1"}, True, 2),
        ({"key": "&", "code": "Digit1"}, True, 2),
        ({"key": "2", "code": "Digit2", "shiftKey": True}, False, 3),
        ({"key": "2", "code": ""}, False, 2),
    ],
)
def test_keypads_and_other_keyboards(anna, asked, options, left_won, strength):
    """The second and third are a French keyboard, whose digits are written with Shift."""
    with anna.page.expect_response("**/api/vote"):
        anna.page.evaluate(KEYDOWN, options)
    vote = asked.votes()[-1]
    assert (vote.left_won, vote.strength) == (left_won, strength)


def test_two_presses_are_one_verdict_and_none_is_taken_before_the_pair_was_seen(anna, asked):
    before = len(asked.log())
    anna.page.evaluate(
        """() => new Promise((resolve) => {
          const key = () => new KeyboardEvent("keydown", { key: "1", code: "Digit1" });
          const press = () => document.dispatchEvent(key());
          const observer = new MutationObserver(() => {
            observer.disconnect();
            for (const wait of [0, 30, 100, 200]) setTimeout(press, wait);
            setTimeout(resolve, 600);
          });
          observer.observe(document.getElementById("left"), { childList: true });
          press();
          press();
          document.querySelector('[data-action="right"]').click();
        })"""
    )
    assert len(asked.log()) == before + 1


def test_the_raw_view_names_what_does_not_show(browser, tmp_path):
    rows = [{"prompt": "p", "chosen": "**a**\u202eb\x1b[31m", "rejected": "c 👩‍🔬"}]
    with serving(tmp_path, rows, "--order", "file") as server:
        person = Person(browser, server)
        person.wait_for_pair()
        assert person.page.locator(".hint:visible").count() == 1
        person.press("r")
        assert person.page.get_attribute("#raw", "aria-pressed") == "true"
        names = person.page.eval_on_selector_all(".answers .mark", "all => all.map(one => one.textContent)")
        assert sorted(names) == ["RIGHT-TO-LEFT OVERRIDE", "TERMINAL ESCAPE 31m", "ZERO WIDTH JOINER"]
        assert "**a**" in "".join(person.read())
        person.press("R")
        assert person.page.locator(".mark").count() == 0


# --- without eyes, without a mouse ---


def test_buttons_alone_decide_and_every_step_is_announced(anna, asked):
    """As a screen reader works: by role and name; single keys may be turned off for good."""
    page = anna.page
    for role in ("banner", "main"):
        assert page.get_by_role(role).count() == 1
    assert page.get_by_role("region", name="Your verdict").count() == 1
    for name in ("Prompt", "Answer A", "Answer B"):
        assert page.get_by_role("region", name=name, exact=True).count() == 1
    anna.press("?")
    assert anna.focused() == "help-title"
    page.get_by_label("Single keys decide").uncheck()
    page.keyboard.press("Escape")
    assert (page.locator("dialog[open]").count(), anna.focused()) == (0, "question")
    before = len(asked.log())
    anna.press("1", "s", "?")
    assert page.locator("dialog[open]").count() == 0
    page.reload()
    anna.wait_for_pair()

    button = page.get_by_role("button", name="B is better", exact=True)
    button.focus()
    page.evaluate("document.activeElement.old = true")
    anna.decide("Enter")
    assert page.get_by_role("status").inner_text() == "Saved: B is better."
    assert (len(asked.log()), anna.focused()) == (before + 1, "question")
    button.focus()
    held = "new KeyboardEvent('keydown', {key: 'Enter', repeat: true, bubbles: true, cancelable: true})"
    assert page.evaluate(f"document.activeElement.dispatchEvent({held})") is False
    page.get_by_role("button", name="Undo").focus()
    anna.decide("Space")
    assert "Undone" in page.get_by_role("status").inner_text()


def test_dialogs_give_the_focus_back(anna):
    for name, place in (("Help", "open-help"), ("Guidelines", "open-guidelines")):
        anna.page.get_by_role("button", name=name).focus()
        anna.press("Enter")
        assert anna.page.get_by_role("dialog", name=name).count() == 1
        anna.page.get_by_role("button", name="Close").click()
        assert (anna.page.get_by_role("dialog").count(), anna.focused()) == (0, place)
    anna.press("g")
    assert "Prefer the answer that helps" in anna.text("#guidelines-text")
    anna.press("g")
    assert anna.page.get_by_role("dialog").count() == 0


# --- hostile text ---


@pytest.mark.slow
def test_no_hostile_text_acts(browser, tmp_path):
    rows = [{"prompt": text, "chosen": text, "rejected": f"{text} b"[::-1]} for text in HOSTILE]
    rows.append(LONG)
    (tmp_path / "guide.md").write_text("\n\n".join(HOSTILE))
    flags = ("--order", "file", "--guidelines", str(tmp_path / "guide.md"), "--reasons", HOSTILE[1])
    with serving(tmp_path, rows, *flags) as server:
        person = Person(browser, server)
        person.wait_for_pair()
        shown = set()
        for _ in rows:
            for key in ("r", "r", "g"):
                person.press(key)
                assert person.page.locator("main").locator(FORBIDDEN).count() == 0
                assert person.overflow() == 0
            assert person.page.locator("#guidelines-text").locator(FORBIDDEN).count() == 0
            person.press("Escape")
            shown.add(person.page.inner_text("#turns"))
            person.decide("1")
        assert person.text("#message-title") == "All done. Thank you!"
        assert len(shown) == len(rows)
        assert any("{{7*7}}" in text for text in shown)
        assert any(f"<script>{RAN}</script>" in text for text in shown)
        assert person.page.evaluate("'ran' in window") is False
        assert person.violations() == person.complaints == []
        assert {url.split("/")[2] for url in person.requests} == {f"127.0.0.1:{server.port}"}


def test_the_browser_would_have_told(anna):
    """The test above can fail: what it looks for is blocked and reported when it is there."""
    anna.page.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.ran = 1";
          const image = new Image();
          image.src = "https://evil.example/p.png";
          const paragraph = document.createElement("p");
          paragraph.setAttribute("style", "color: red");
          document.querySelector("main").append(script, image, paragraph);
        }"""
    )
    anna.until("window.violations.length === 3")
    assert anna.page.evaluate("'ran' in window") is False
    assert anna.page.locator("main").locator(FORBIDDEN).count() == 3
    assert len(anna.complaints) == 3


# --- looks ---


LOOKS = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
    "dark phone": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "has_touch": True},
}


@pytest.fixture(scope="module")
def talks(guide, tmp_path_factory):
    flags = ("--strength", "--reasons", "wrong,incomplete,too long", "--guidelines", str(guide))
    with serving(tmp_path_factory.mktemp("talks"), TALKS, *flags) as server:
        yield server


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_no_serious_fault(browser, talks, look):
    anna = Person(browser, talks, bypass_csp=True, **LOOKS[look])
    anna.wait_for_pair()
    anna.page.evaluate(axe_script())
    passed = assert_accessible(anna.page)
    assert {"color-contrast", "button-name", "html-has-lang", "landmark-one-main", "label"} <= passed
    for key, back in (("r", "r"), ("?", "Escape"), ("g", "Escape")):
        anna.press(key)
        assert_accessible(anna.page)
        anna.press(back)
    anna.page.route("**/api/*", lambda route: route.abort())
    anna.press("1")
    anna.page.wait_for_selector("#banner p")
    assert_accessible(anna.page)
    anna.page.unroute_all()
    anna.page.wait_for_selector("#message:not([hidden])")
    assert_accessible(anna.page)
    anna.decide("u")
    assert anna.overflow() == 0
    anna.context.close()


@pytest.mark.skipif("LOGRATIO_PICTURES" not in os.environ, reason="LOGRATIO_PICTURES says where pictures go")
def test_pictures(browser, guide, tmp_path):
    rows = [*comparisons(12), *TALKS, *comparisons(40)[12:]]
    flags = ("--order", "file", "--strength", "--guidelines", str(guide))
    with serving(tmp_path, rows, *flags) as server:
        anna = Person(browser, server, viewport={"width": 1200, "height": 1000})
        anna.wait_for_pair()
        for _ in range(12):
            anna.decide("1")
        for scheme, name in (("light", "annotate_page"), ("dark", "annotate_page_dark")):
            anna.page.emulate_media(color_scheme=scheme)
            anna.page.screenshot(path=Path(os.environ["LOGRATIO_PICTURES"]) / f"{name}.png")
