from __future__ import annotations

import subprocess
import sys
from collections import Counter
from difflib import SequenceMatcher

import pytest

from logratio.data.quickstart_prompts import REQUESTS, num_quickstart_prompts, quickstart_prompts, remarks
from logratio.errors import BadConfig


def test_the_remarks_are_many_and_various():
    found = remarks()
    subjects = Counter(remark.subject for remark in found)
    assert len(subjects) >= 40
    assert set(subjects.values()) == {8}
    assert len({remark.text for remark in found}) == len(found) >= 400
    assert all(remark.text[0].isupper() and remark.text[-1] in ".?" for remark in found)
    assert all(20 <= len(remark.text) <= 90 for remark in found)


def test_no_two_remarks_are_nearly_the_same():
    texts = [remark.text for remark in remarks()]
    matcher = SequenceMatcher(autojunk=False)
    near = []
    for index, text in enumerate(texts):
        matcher.set_seq2(text)
        for other in texts[:index]:
            matcher.set_seq1(other)
            if matcher.real_quick_ratio() > 0.75 and matcher.quick_ratio() > 0.75 and matcher.ratio() > 0.75:
                near.append((text, other))
    assert near == []


@pytest.mark.parametrize("num", [1, 304, 450, num_quickstart_prompts()])
def test_prompts_are_distinct(num):
    prompts = quickstart_prompts(num, 0)
    assert len(prompts) == num
    assert len({prompt.key for prompt in prompts}) == num


def test_no_remark_comes_twice_before_each_has_come_once():
    total = len(remarks())
    texts = [str(prompt) for prompt in quickstart_prompts(total + 20, 3)]
    used = [next(remark.text for remark in remarks() if remark.text in text) for text in texts]
    assert len(set(used[:total])) == total
    assert used[total:] == used[:20]
    assert all(first != second for first, second in zip(texts[:20], texts[total:], strict=True))


def test_every_request_is_used_about_as_often():
    texts = [str(prompt) for prompt in quickstart_prompts(len(remarks()), 0)]
    for request in REQUESTS:
        before, after = request.split("{remark}")
        before = before.partition("{subject}")[0]
        share = sum(text.startswith(before) and text.endswith(after) for text in texts) / len(texts)
        assert share > 0.5 / len(REQUESTS)


def test_the_seed_decides_the_order_and_more_begin_with_fewer():
    assert quickstart_prompts(100, 0) == quickstart_prompts(100, 0)
    assert quickstart_prompts(500, 0)[:100] == quickstart_prompts(100, 0)
    assert set(quickstart_prompts(100, 0)) != set(quickstart_prompts(100, 1))


@pytest.mark.parametrize("num", [0, -1, 10**6])
def test_a_number_that_cannot_be_had_is_refused(num):
    with pytest.raises(BadConfig, match="prompts are asked for"):
        quickstart_prompts(num, 0)


def test_reading_them_needs_no_torch():
    code = "import sys; import logratio.data.quickstart_prompts; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
