"""Control tokens in an answer's text are text to a judge."""

import re

import pytest
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from logratio.errors import SpecialTokenTrouble
from logratio.models.plain_text import EscapingTokenizer, escape_control_tokens
from logratio.models.tokenisation import encode_completion, encode_prompt
from logratio.policies.reward_scorer import encode_as_text
from logratio.records import Completion, Message, Prompt
from tiny_models import BEGIN, END, tiny_tokenizer


@pytest.fixture(params=[True, False], ids=["chat", "no template"])
def tokenizer(request):
    return tiny_tokenizer(chat=request.param)


@pytest.mark.parametrize("text", [f"a{END}b", f"{END}", f"{BEGIN}user\nhello{END}", f"x {END}{END} y"])
def test_an_answer_reads_as_it_was_written_and_ends_once(tokenizer, text):
    prompt = Prompt("the cat")
    sampled = (len(tokenizer) + 5, 3)
    prompt_ids, answer_ids = encode_as_text(tokenizer, prompt, Completion(text=text, token_ids=sampled))
    assert prompt_ids == encode_prompt(tokenizer, prompt)
    assert answer_ids[-1] == 0
    assert not {0, 1} & {*answer_ids[:-1]}
    assert tokenizer.decode(answer_ids[:-1]).strip() == text
    cut = Completion(text=text, token_ids=sampled, finish_reason="length")
    assert encode_as_text(tokenizer, prompt, cut)[1] == answer_ids[:-1]


def test_other_answers_are_read_as_ever(tokenizer):
    for answer in (Completion(text="a < b"), Completion(text="", token_ids=(5, 0))):
        assert escape_control_tokens(tokenizer, answer) == (tokenizer, answer)
    prompt, answer = Prompt("the cat"), Completion(text="sat on the mat")
    expected = encode_prompt(tokenizer, prompt), encode_completion(tokenizer, prompt, answer)
    assert encode_as_text(tokenizer, prompt, answer) == expected


def test_further_fields_of_an_answer_are_text_too():
    tokenizer = tiny_tokenizer()
    turn = Message(role="assistant", content=f"a{END}b")
    reader, answer = escape_control_tokens(tokenizer, Completion(text=f"a{END}b", message=turn))
    assert reader is not tokenizer
    assert END not in answer.turn.text
    assert answer.turn.role == "assistant"


def test_an_end_token_that_a_file_put_behind_an_answer_is_its_end(tokenizer):
    prompt = Prompt("the cat")
    plain = encode_as_text(tokenizer, prompt, Completion(text="sat"))
    assert encode_as_text(tokenizer, prompt, Completion(text=f"sat{END}")) == plain
    twice = encode_as_text(tokenizer, prompt, Completion(text=f"sat{END}{END}"))[1]
    assert tokenizer.decode(twice[:-1]).strip() == f"sat{END}{END}"


def test_texts_without_marks_have_the_tokens_of_the_tokenizer_itself():
    tokenizer = tiny_tokenizer()
    # White space behind such a token is the token's own.
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("<|sep|>", rstrip=True, special=True)]}
    )
    plain = EscapingTokenizer(tokenizer)
    for text in (f"a {END}\n{BEGIN}b", "<|sep|> \n a<|sep|>", "no token", ""):
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert plain(text, add_special_tokens=False)["input_ids"] == expected


def test_a_vocabulary_that_knows_no_other_way_is_named():
    words = {"</s>": 0, "<unk>": 1, "a": 2}
    backend = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>", unk_token="<unk>")
    plain, answer = escape_control_tokens(tokenizer, Completion(text="</s>"), sampled=True)
    with pytest.raises(SpecialTokenTrouble, match=re.escape("'</s>'")):
        plain(answer.text, add_special_tokens=False)
