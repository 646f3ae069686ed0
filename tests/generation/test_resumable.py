"""The file that grows while answers are drawn: what a kill leaves is used, and nothing else is."""

import json

import pytest

from logratio import errors
from logratio.generation.resumable import PartialAnswers
from logratio.generation.sampler import IndexedCompletion
from logratio.records import Completion, Prompt

IDENTITY = {"model": "abc", "seed": 0}
PROMPTS = [Prompt(f"frage {number}\u2028") for number in range(10)]


def placed(prompt, answer):
    completion = Completion(
        text=f"zeile\n{prompt}\u2028é",
        token_ids=(1, 2),
        logprobs=(-0.1, -1 / 3),
        model_logprobs=(-0.1, -2.5),
        seed=7,
    )
    return IndexedCompletion(prompt, answer, completion)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "out.jsonl.partial.jsonl"


def test_answers_come_back_exactly(path):
    with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
        assert partial.known == {}
        partial.add([placed(0, 0), placed(0, 1)])
        partial.add([placed(3, 0)])
    with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
        assert partial.known == {
            place[:2]: place.completion for place in (placed(0, 0), placed(0, 1), placed(3, 0))
        }


def test_each_prompt_stands_beside_its_first_answer(path):
    """Whoever reads along, as the labelling page does, needs no other file."""
    with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
        partial.add([placed(0, 0), placed(0, 1), placed(3, 0)])
    rows = [json.loads(line) for line in path.read_text().split("\n")[1:-1]]
    assert [row.get("asked") for row in rows] == [PROMPTS[0].to_json(), None, PROMPTS[3].to_json()]


def test_a_file_cut_at_any_byte_is_taken_up(path):
    with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
        partial.add([placed(0, 0)])
        partial.add([placed(1, 0)])
    content = path.read_bytes()
    lines = content.count(b"\n")
    for size in range(len(content) + 1):
        path.write_bytes(content[:size])
        with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
            assert len(partial.known) == max(0, content[:size].count(b"\n") - 1)
            partial.add([placed(9, 9)])
        rows = [json.loads(line) for line in path.read_text().split("\n")[:-1]]
        assert rows[0] == IDENTITY
        assert rows[-1]["prompt"] == 9
        assert len(rows) <= lines + 1


def test_other_settings_are_refused_with_what_differs(path):
    with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
        partial.add([placed(0, 0)])
    before = path.read_bytes()
    with pytest.raises(errors.ResumeMismatch, match="seed was 0, is 1"):
        PartialAnswers(path, IDENTITY | {"seed": 1}, PROMPTS)
    assert path.read_bytes() == before


def test_two_at_a_time_are_refused(path):
    with PartialAnswers(path, IDENTITY, PROMPTS), pytest.raises(errors.RunDirBusy):
        PartialAnswers(path, IDENTITY, PROMPTS)
    with PartialAnswers(path, IDENTITY, PROMPTS):
        pass


def test_answers_that_stand_elsewhere_are_discarded(path):
    with PartialAnswers(path, IDENTITY, PROMPTS) as partial:
        partial.discard()
    assert list(path.parent.iterdir()) == []


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.NotWritable):
        PartialAnswers(tmp_path / "file" / "out", IDENTITY, PROMPTS)
