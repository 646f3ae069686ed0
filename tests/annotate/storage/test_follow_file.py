"""A file that grows: pairs from whole lines alone, none twice, and the same as the finished file gives."""

import json
import os
import random
from functools import partial

import pytest

from annotate.live_server import write_completions
from logratio.annotate.domain.pairs import read_pairs
from logratio.annotate.storage.follow_file import Follower, find_followed_file
from logratio.annotate.storage.store import Store
from logratio.generation.resumable import PartialAnswers
from logratio.records import Completion, Message, Prompt
from logratio.run_directory import hash_file


def row(number, *texts, **columns):
    return {"prompt": f"question {number}", "completions": [{"text": text} for text in texts], **columns}


def lines(*rows):
    return "".join(json.dumps(one) + "\n" for one in rows).encode()


def poll_all(follower, store):
    """Look until nothing is new; how many pairs were added."""
    added = 0
    while (news := follower.poll()) is not None:
        added += store.add_file(f"live:{news.path}", news.file, live=True)
    return added


@pytest.fixture
def store(tmp_path):
    with Store.create_or_open(tmp_path / "labels.db") as opened:
        yield opened


def test_a_file_that_is_not_there_yet_gives_nothing(tmp_path):
    follower = Follower(tmp_path / "completions.jsonl", read_pairs)
    assert follower.poll() is None
    (tmp_path / "completions.jsonl").write_bytes(lines(row(1, "a", "b")))
    news = follower.poll()
    assert news.path == tmp_path / "completions.jsonl"
    assert [pair.source for pair in news.file.pairs] == [f"{news.path}:1"]
    assert news.file.sha256 == hash_file(news.path)
    assert follower.poll() is None


def test_a_line_that_is_cut_off_waits_for_its_end(tmp_path, store):
    path = tmp_path / "completions.jsonl"
    content = lines(row(1, "a", "b"), row(2, "c", "é😀"))
    follower = Follower(path, read_pairs)
    added = []
    for end in range(0, len(content) + 1):
        with path.open("ab") as stream:
            stream.write(content[max(end - 1, 0) : end])
        added.append(poll_all(follower, store))
    assert sum(added) == 2
    # Each pair came with the byte that ended its line.
    assert [index for index, count in enumerate(added) if count] == [
        len(lines(row(1, "a", "b"))),
        len(content),
    ]


def test_any_cuts_give_what_the_whole_file_gives(tmp_path, store):
    rows = [row(number % 7, f"a {number}", f"b {number}", model=f"m{number % 2}") for number in range(40)]
    content, generator = lines(*rows), random.Random(3)
    path = tmp_path / "completions.jsonl"
    follower = Follower(path, read_pairs)
    place = 0
    while place < len(content):
        step = generator.randrange(1, 400)
        with path.open("ab") as stream:
            stream.write(content[place : place + step])
        place += step
        poll_all(follower, store)
    whole = read_pairs(path)
    assert set(store.pairs()) == {pair.id for pair in whole.pairs}
    assert {pair.source for pair in store.pairs().values()} == {pair.source for pair in whole.pairs}
    assert {pair.models for pair in store.pairs().values()} == {pair.models for pair in whole.pairs}


def test_answers_to_one_prompt_in_rows_that_come_later_are_compared(tmp_path, store):
    path = tmp_path / "completions.jsonl"
    path.write_bytes(lines(row(1, "of one model")))
    follower = Follower(path, read_pairs)
    assert poll_all(follower, store) == 0
    with path.open("ab") as stream:
        stream.write(lines(row(2, "alone"), row(1, "of another")))
    assert poll_all(follower, store) == 1
    (pair,) = store.pairs().values()
    assert {pair.a.text, pair.b.text} == {"of one model", "of another"}


def test_lines_that_cannot_be_used_are_counted_and_passed_over(tmp_path, store):
    path = tmp_path / "completions.jsonl"
    path.write_bytes(b"not json\n[1]\n\n" + lines(row(1, "a", "b"), {"prompt": 5, "completions": 3}))
    news = Follower(path, read_pairs).poll()
    assert len(news.file.pairs) == 1
    assert news.file.pairs[0].source == f"{path}:4"
    assert set(news.file.left_out) >= {"BadJsonLine", "RowNotObject", "WrongType"}
    only_bad = tmp_path / "bad.jsonl"
    only_bad.write_bytes(b"not json\n")
    assert Follower(only_bad, read_pairs).poll().file.pairs == []


def test_comparisons_are_followed_too(tmp_path, store):
    path = tmp_path / "comparisons.jsonl"
    path.write_bytes(lines({"prompt": "p", "chosen": "a", "rejected": "b"}))
    assert poll_all(Follower(path, read_pairs), store) == 1


@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_a_file_that_is_written_anew_is_read_anew(tmp_path, store, how):
    path = tmp_path / "completions.jsonl"
    path.write_bytes(lines(row(1, "a", "b"), row(2, "c", "d")))
    follower = Follower(path, read_pairs)
    assert poll_all(follower, store) == 2
    new = lines(row(3, "e", "f"))
    if how == "replaced":
        (tmp_path / "new").write_bytes(new)
        os.replace(tmp_path / "new", path)
    else:
        path.write_bytes(new)
    assert poll_all(follower, store) == 1
    assert len(store.pairs()) == 3


def test_what_was_followed_may_be_given_whole_afterwards(tmp_path, store):
    path = write_completions(tmp_path / "completions.jsonl", 3)
    poll_all(Follower(path, read_pairs), store)
    write_completions(path, 5)
    assert store.add_file(str(path), read_pairs(path)) == 2


def test_the_newest_in_a_directory_is_followed(tmp_path):
    assert find_followed_file(tmp_path) is None
    for age, name in enumerate(["completions-1.jsonl", "completions.jsonl", "other.jsonl"]):
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (1000 + age, 1000 + age))
    assert find_followed_file(tmp_path) == tmp_path / "completions.jsonl"
    os.utime(tmp_path / "completions-1.jsonl", (5000, 5000))
    assert find_followed_file(tmp_path) == tmp_path / "completions-1.jsonl"


def test_the_settings_of_the_pairs_are_kept(tmp_path, store):
    path = tmp_path / "completions.jsonl"
    path.write_bytes(lines(row(1, "a", "b", "c")))
    assert poll_all(Follower(path, partial(read_pairs, pairing="all")), store) == 3


# --- what a sampling run writes ---------------------------------------------------------------------


def drawing(*, num_samples, answers, asked=True):
    """The lines that `logratio sample` writes while it draws."""
    told = set()
    rows = [{"format": 1, "model": "m", "num_samples": num_samples, "seed": 0}]
    for prompt, answer in answers:
        one = {"prompt": prompt, "answer": answer, "completion": {"text": f"{prompt}.{answer}"}}
        if asked and prompt not in told:
            told.add(prompt)
            one["asked"] = f"question {prompt}"
        rows.append(one)
    return lines(*rows)


def test_a_sampling_run_is_followed_from_its_first_answer_to_its_file(tmp_path, store):
    out = tmp_path / "completions.jsonl"
    growing = tmp_path / "completions.jsonl.partial.jsonl"
    answers = [(0, 0), (1, 0), (0, 2), (1, 1), (0, 1), (1, 2)]
    growing.write_bytes(drawing(num_samples=3, answers=answers[:4]))
    follower = Follower(out, read_pairs)
    # No prompt has all its answers yet: what is a neighbour is not known.
    assert poll_all(follower, store) == 0
    growing.write_bytes(drawing(num_samples=3, answers=answers[:5]))
    assert poll_all(follower, store) == 2
    growing.write_bytes(drawing(num_samples=3, answers=answers))
    assert poll_all(follower, store) == 2
    before = set(store.pairs())
    out.write_bytes(
        lines(*[row(number, *[f"{number}.{answer}" for answer in range(3)]) for number in range(2)])
    )
    growing.unlink()
    assert poll_all(follower, store) == 0
    assert set(store.pairs()) == before == {pair.id for pair in read_pairs(out).pairs}


def test_what_a_sampling_run_really_writes_is_understood(tmp_path, store):
    out = tmp_path / "completions.jsonl"
    follower = Follower(out, read_pairs)
    prompts = [Prompt("one"), Prompt((Message(role="user", content="two"),))]
    path, identity = tmp_path / "completions.jsonl.partial.jsonl", {"format": 1, "num_samples": 2}
    with PartialAnswers(path, identity, prompts) as partial_answers:
        partial_answers.add([(0, 1, Completion(text="a")), (1, 0, Completion(text="b"))])
        assert poll_all(follower, store) == 0
        partial_answers.add([(0, 0, Completion(text="c"))])
        assert poll_all(follower, store) == 1
    with path.open("ab") as stream:
        stream.write(b'{"prompt": 1, "answ')
    assert poll_all(follower, store) == 0
    # Killed, and resumed: what was cut off is written again.
    with PartialAnswers(path, identity, prompts) as partial_answers:
        partial_answers.add([(1, 1, Completion(text="d"))])
        assert poll_all(follower, store) == 1
    assert [str(pair.prompt) for pair in store.pairs().values()] == ["one", "user: two"]


def test_a_directory_with_a_sampling_run_is_followed(tmp_path, store):
    growing = tmp_path / "completions.jsonl.partial.jsonl"
    growing.write_bytes(drawing(num_samples=2, answers=[(0, 0), (0, 1)]))
    assert poll_all(Follower(tmp_path, read_pairs), store) == 1


def test_a_run_that_does_not_say_what_was_asked_gives_its_pairs_at_its_end(tmp_path, store):
    growing = tmp_path / "completions.jsonl.partial.jsonl"
    growing.write_bytes(drawing(num_samples=2, answers=[(0, 0), (0, 1)], asked=False) + b"garbage\n[]\n")
    assert poll_all(Follower(tmp_path / "completions.jsonl", read_pairs), store) == 0
