"""`logratio chat` through a pipe."""

import io

import pytest

from logratio.cli import chat
from logratio.cli import main as door
from logratio.generation.engines.selection import StreamedToken
from logratio.models.loading import save
from tiny_models import tiny_llama


@pytest.fixture
def place(tmp_path, tokenizer):
    for name, seed in (("first", 0), ("second", 1)):
        save(tiny_llama(len(tokenizer), seed=seed), tokenizer, tmp_path / name)
    return tmp_path


def talk(monkeypatch, capsys, place, words, *flags):
    monkeypatch.setattr("sys.stdin", io.StringIO(words))
    status = door.main(["chat", "--model", str(place / "first"), "--max-new-tokens", "8", *flags])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_one_model_answers_each_line(monkeypatch, capsys, place):
    status, shown, _ = talk(monkeypatch, capsys, place, "hello\n\nand then?\n")
    assert status == 0
    assert shown.count("first> ") == 2
    assert "you> hello" in shown
    assert shown.count("nats per token]") == 2


def test_two_models_answer_with_their_names(monkeypatch, capsys, place):
    status, shown, _ = talk(monkeypatch, capsys, place, "hello", "--against", str(place / "second"))
    assert status == 0
    assert shown.index("first> ") < shown.index("second> ")


def test_the_same_model_twice_is_told_apart(monkeypatch, capsys, place):
    status, shown, _ = talk(monkeypatch, capsys, place, "hello\n", "--against", str(place / "first"))
    assert status == 0
    assert "A: " in shown
    assert "B: " in shown


def answers_in(shown):
    return [part.split("\n  [")[0] for part in shown.split("first> ")[1:]]


def test_the_conversation_is_remembered_until_reset(monkeypatch, capsys, place):
    _, shown, _ = talk(monkeypatch, capsys, place, "hello\nhello\n/reset\nhello\nhello\n")
    answers = answers_in(shown)
    assert answers[0] == answers[2] != answers[1]
    assert answers[1] == answers[3]


def test_what_a_model_hears(monkeypatch, capsys, place):
    heard = []
    monkeypatch.setattr(
        chat, "stream_answer", lambda speaker, prompt, **_: heard.append(prompt.to_json()) or "answer"
    )
    talk(monkeypatch, capsys, place, "one\ntwo\n", "--system", "be brief")
    system = {"role": "system", "content": "be brief"}
    first = {"role": "user", "content": "one"}
    assert heard == [
        [system, first],
        [system, first, {"role": "assistant", "content": "answer"}, {"role": "user", "content": "two"}],
    ]


def test_another_seed_gives_another_answer(monkeypatch, capsys, place):
    _, shown, _ = talk(monkeypatch, capsys, place, "hello\n/reset\n/seed 5\nhello\n/reset\n/seed 0\nhello\n")
    answers = answers_in(shown)
    assert answers[0] == answers[2] != answers[1]


def test_quit_leaves(monkeypatch, capsys, place):
    status, shown, _ = talk(monkeypatch, capsys, place, "/quit\nhello\n")
    assert status == 0
    assert "first> " not in shown


@pytest.mark.parametrize("command", ["/sed 5", "/seed five", "/"])
def test_a_wrong_command_is_named_and_the_talk_goes_on(monkeypatch, capsys, place, command):
    status, shown, _ = talk(monkeypatch, capsys, place, f"{command}\nhello\n")
    assert status == 0
    assert "BadConfig" in shown
    assert "first> " in shown


def test_a_fault_is_named_and_the_talk_goes_on(monkeypatch, capsys, place):
    status, shown, _ = talk(monkeypatch, capsys, place, "very " * 600 + "\nhello\n")
    assert status == 0
    assert "PromptTooLong" in shown
    assert shown.count("nats per token]") == 1


def test_settings_are_checked_before_a_model_is_read(monkeypatch, capsys, place):
    monkeypatch.setattr(chat, "load", lambda *_args, **_options: pytest.fail("the model was read"))
    status, _, error = talk(monkeypatch, capsys, place, "hello\n", "--top-p", "7")
    assert status == 2
    assert "BadConfig" in error


def test_ctrl_c_stops_the_answer_and_not_the_talk(monkeypatch, capsys, place):
    stream = chat.stream_tokens

    def interrupted(*arguments):
        yield next(stream(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(chat, "stream_tokens", interrupted)
    status, shown, _ = talk(monkeypatch, capsys, place, "hello\nhello\n")
    assert status == 0
    assert shown.count("[1 tokens, stopped") == 2


def test_an_answer_without_a_token_has_no_mean(monkeypatch, capsys, place):
    def interrupted(*_):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(chat, "stream_tokens", interrupted)
    status, shown, _ = talk(monkeypatch, capsys, place, "hello\n")
    assert status == 0
    assert "[0 tokens, stopped]" in shown


def test_a_model_cannot_write_to_the_terminal_itself():
    assert chat.printable("a\x1b[2Jb\r\n\tc\x07") == "a[2Jb\n\tc"


def test_characters_of_many_tokens_are_shown_whole(monkeypatch, capsys, tokenizer, model):
    ids = tokenizer("naïve 日本", add_special_tokens=False)["input_ids"]
    steps = [StreamedToken(token, -1.0, -1.0) for token in ids]
    monkeypatch.setattr(chat, "stream_tokens", lambda *_: iter(steps))
    speaker = chat.Speaker(name="m", model=model, tokenizer=tokenizer)
    prompt = chat.Prompt("hello")
    text = chat.stream_answer(speaker, prompt, seed=0, config=chat.SamplingConfig())
    assert text == "naïve 日本"
    assert capsys.readouterr().out.startswith("naïve 日本\n")
