"""Sampling against plain forward passes and against exact probabilities."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    SmolLM3Config,
    SmolLM3ForCausalLM,
)

from logratio import errors
from logratio.generation.config import SamplingConfig
from logratio.generation.engines import continuous_batching, kv_cache
from logratio.generation.engines.kv_cache import DecodingState
from logratio.generation.engines.selection import sample_tokens, stream_tokens
from logratio.generation.engines.shared_prompt_cache import SharedPromptCache, SlotSize
from logratio.generation.engines.uncached_decoding import UncachedRows, find_cache_mismatch, supports_kv_cache
from logratio.kernels.fused_decoder import Decoder
from logratio.kernels.precision import ComputeWeights
from tiny_models import SIZES, exact_llama, exact_of, tiny_llama

VOCABULARY = 60
STOPS = frozenset({3, 4})
CONFIG = SamplingConfig(max_new_tokens=24)


def random_prompts(lengths=(3, 9, 1, 5, 5, 20)):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(0, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]


PROMPTS = random_prompts()
SEEDS = [[10 * row + column for column in range(5)] for row in range(len(PROMPTS))]


def run(model, config=CONFIG, prompts=PROMPTS, seeds=SEEDS, stops=STOPS, **further):
    return sample_tokens(model, prompts, seeds, stops, 0, config, **further)


def tokens_of(answers):
    return [[decoded.token_ids for decoded in own] for own in answers]


@torch.no_grad()
def logits_along(model, prompt, token_ids):
    """Logits from one plain forward pass of one sequence, without a cache and without padding."""
    return model(torch.tensor([[*prompt, *token_ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1]


def along(model, answers, prompts=PROMPTS):
    for prompt, own in zip(prompts, answers, strict=True):
        for decoded in own:
            yield (
                decoded,
                logits_along(model, prompt, decoded.token_ids),
                torch.tensor(decoded.token_ids)[:, None],
            )


def test_memory_bounds_how_many_are_decoded_at_a_time(monkeypatch):
    """Two layers of two key heads of eight numbers, twice, in four bytes: 256 bytes for each token."""
    slots, begin = [], SharedPromptCache.__init__

    def record(self, *arguments, **settings):
        begin(self, *arguments, **settings)
        slots.append(self.num_slots)

    monkeypatch.setattr(SharedPromptCache, "__init__", record)
    model = tiny_llama(VOCABULARY)
    expected = tokens_of(run(model))
    longest = max(map(len, PROMPTS))
    for bound, wanted in ((2, 2), (1, 1), (0, 1)):
        a_place = 256 * (longest + 5 * CONFIG.max_new_tokens)
        monkeypatch.setattr(continuous_batching, "MAX_CACHE_BYTES", bound * a_place + a_place - 1)
        assert tokens_of(run(model)) == expected
        assert slots[-1] == wanted
    assert slots[0] == min(len(PROMPTS), CONFIG.decode_batch_size // 5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_place_takes_the_bytes_that_are_said(dtype, precision):
    model = tiny_llama(VOCABULARY).to(dtype)
    decoder = Decoder.of(model.base_model, ComputeWeights(precision))
    size = SlotSize(group_size=3, max_prompt_tokens=7, room=5)
    grid = SharedPromptCache(decoder, model.get_output_embeddings().weight, slots=2, size=size)
    assert grid._prompt_kv.nbytes + grid._answer_kv.nbytes == 2 * size.num_bytes(decoder)


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize(("make", "tolerance"), [(tiny_llama, 1e-5), (exact_llama, 1e-12)])
def test_logprobs_equal_those_of_a_plain_forward_pass(make, tolerance, batch_size):
    model = make(VOCABULARY)
    answers = run(model, replace(CONFIG, decode_batch_size=batch_size))
    for decoded, logits, tokens in along(model, answers):
        expected = logits.double().log_softmax(-1).gather(-1, tokens)[:, 0]
        assert torch.tensor(decoded.logprobs, dtype=torch.float64) == pytest.approx(expected, abs=tolerance)
        assert decoded.logprobs == decoded.model_logprobs


@pytest.mark.parametrize("truncation", [{"temperature": 0.6}, {"top_k": 4}, {"top_p": 0.7}])
def test_logprobs_with_truncation_equal_an_independent_renormalisation(truncation):
    model = exact_llama(VOCABULARY)
    config = replace(CONFIG, **truncation)
    for decoded, logits, tokens in along(model, run(model, config)):
        scaled = logits / config.temperature
        if config.top_k:
            kept = scaled.argsort(-1, descending=True)[:, : config.top_k]
        else:
            order = scaled.argsort(-1, descending=True)
            mass = scaled.softmax(-1).gather(-1, order).cumsum(-1)
            kept = torch.where(
                mass - scaled.softmax(-1).gather(-1, order) < config.top_p, order, order[:, :1]
            )
        allowed = torch.zeros_like(scaled, dtype=torch.bool).scatter(-1, kept, True)
        expected = scaled.masked_fill(~allowed, -torch.inf).log_softmax(-1).gather(-1, tokens)[:, 0]
        plain = logits.log_softmax(-1).gather(-1, tokens)[:, 0]
        assert torch.tensor(decoded.logprobs, dtype=torch.float64) == pytest.approx(expected, abs=1e-10)
        assert torch.tensor(decoded.model_logprobs, dtype=torch.float64) == pytest.approx(plain, abs=1e-10)


def test_a_model_that_is_not_known_draws_in_bf16_what_autocast_computes():
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4)).eval()
    answers = run(model, replace(CONFIG, precision="bf16"))
    apart = {"fp32": 0.0, "bf16": 0.0}
    for decoded, plain, tokens in along(model, answers):
        with torch.autocast("cpu", torch.bfloat16):
            prompt = next(p for p, own in zip(PROMPTS, answers, strict=True) if decoded in own)
            coarse = logits_along(model, prompt, decoded.token_ids)
        for name, logits in (("fp32", plain), ("bf16", coarse)):
            expected = logits.double().log_softmax(-1).gather(-1, tokens)[:, 0]
            found = torch.tensor(decoded.logprobs, dtype=torch.float64)
            apart[name] = max(apart[name], float((found - expected).abs().max()))
    assert apart["bf16"] < 0.02
    assert apart["fp32"] > 1e-4
    # Nothing of it stays behind.
    assert tokens_of(run(model)) == tokens_of(run(model))
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_do_not_depend_on_the_batch_size(batch_size):
    model = tiny_llama(VOCABULARY)
    assert tokens_of(run(model, replace(CONFIG, decode_batch_size=batch_size))) == tokens_of(run(model))


def test_answers_do_not_depend_on_the_other_prompts_their_order_or_the_padding():
    model = tiny_llama(VOCABULARY)
    together = tokens_of(run(model))
    order = [4, 0, 5, 2, 1, 3]
    shuffled = run(model, prompts=[PROMPTS[i] for i in order], seeds=[SEEDS[i] for i in order])
    assert tokens_of(shuffled) == [together[i] for i in order]
    for prompt, own, expected in zip(PROMPTS, SEEDS, together, strict=True):
        assert tokens_of(run(model, prompts=[prompt], seeds=[own])) == [expected]
    assert tokens_of(sample_tokens(model, PROMPTS, SEEDS, STOPS, 17, CONFIG)) == together


KNOWN = {
    "llama": lambda: exact_llama(VOCABULARY),
    "qwen 3": lambda: exact_of(Qwen3ForCausalLM, Qwen3Config, VOCABULARY, head_dim=12),
    "smollm 3": lambda: exact_of(SmolLM3ForCausalLM, SmolLM3Config, VOCABULARY, no_rope_layers=[1, 0]),
}


@pytest.mark.parametrize("batch_size", [1, 4, 10, 64])
@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("name", KNOWN)
def test_rows_that_come_and_go_are_answered_as_those_that_transformers_caches(
    monkeypatch, name, batch_size, share
):
    model = KNOWN[name]()
    assert Decoder.of(model.base_model, ComputeWeights()) is not None
    config = replace(CONFIG, decode_batch_size=batch_size)
    seeds = [own[: 1 + int(share * row)] for row, own in enumerate(SEEDS)] if share else SEEDS
    ours = run(model, config, seeds=seeds)
    monkeypatch.setattr(Decoder, "of", lambda *_, **__: None)
    theirs = run(model, config, seeds=seeds)
    assert tokens_of(ours) == tokens_of(theirs)
    for mine, other in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-11)
    assert supports_kv_cache(model)


def test_different_numbers_of_answers_and_none():
    model = tiny_llama(VOCABULARY)
    together = tokens_of(run(model))
    ragged = run(model, seeds=[own[: row % 4] for row, own in enumerate(SEEDS)])
    assert tokens_of(ragged) == [own[: row % 4] for row, own in enumerate(together)]


def test_each_prompt_is_read_once_for_all_its_answers_and_the_next_as_soon_as_there_is_room(monkeypatch):
    read, rows, honest, step = [], [], SharedPromptCache._read, SharedPromptCache.step

    def watch(grid, prompts, slots):
        read.append((len(rows), sorted(map(tuple, prompts))))
        return honest(grid, prompts, slots)

    monkeypatch.setattr(SharedPromptCache, "_read", watch)
    monkeypatch.setattr(
        SharedPromptCache, "step", lambda grid, tokens: rows.append(len(tokens)) or step(grid, tokens)
    )
    answers = run(tiny_llama(VOCABULARY), replace(CONFIG, decode_batch_size=10), stops=range(12))
    assert sorted(prompt for _, prompts in read for prompt in prompts) == sorted(map(tuple, PROMPTS))
    # Two places: the longest prompts first, and then others while answers to one of the two go on.
    assert len(read[0][1]) == 2
    longest_first = sorted(range(len(PROMPTS)), key=lambda index: (-len(PROMPTS[index]), index))
    lengths = [max(len(answer.token_ids) for answer in answers[index]) for index in longest_first]
    pairs = zip(lengths[::2], lengths[1::2], strict=True)
    assert len(rows) < sum(max(pair) - 1 for pair in pairs)
    # Nothing is computed for answers that have ended.
    assert sum(rows) == sum(len(answer.token_ids) - 1 for own in answers for answer in own)


def test_a_model_whose_parts_are_not_known_is_read_once_for_all_answers_too(monkeypatch):
    monkeypatch.setattr(Decoder, "of", lambda *_, **__: None)
    model, shapes = tiny_llama(VOCABULARY), []
    assert supports_kv_cache(model)
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    run(model)
    assert shapes[0] == (len(PROMPTS), 20)
    assert shapes[1] == (30, 1)
    assert all(width == 1 for _, width in shapes[1:])
    # Ended rows leave the batch.
    assert shapes[-1][0] < 30


def test_the_room_for_tokens_changes_nothing(monkeypatch):
    monkeypatch.setattr(Decoder, "of", lambda *_, **__: None)
    model = exact_llama(VOCABULARY)
    ours = run(model)
    monkeypatch.setattr(
        kv_cache, "_new_cache", lambda model, room: kv_cache.DynamicCache(config=model.config)
    )
    theirs = run(model)
    assert tokens_of(ours) == tokens_of(theirs)
    for mine, other in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-12)


def gpt2():
    """Absolute positions, which show a padding that is counted; dropout, which would show in sampling."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3
    )
    return GPT2LMHeadModel(config)


def sliding():
    """A window shorter than the answers: the cache forgets, and padding cannot be trimmed."""
    torch.manual_seed(0)
    config = MistralConfig(vocab_size=VOCABULARY, **SIZES, sliding_window=6)
    return MistralForCausalLM(config)


def hybrid():
    """Short convolutions between layers of attention: padding must not enter what they keep."""
    torch.manual_seed(0)
    config = Lfm2Config(vocab_size=VOCABULARY, **SIZES, layer_types=["conv", "full_attention"])
    return Lfm2ForCausalLM(config)


def recurrent():
    """A state instead of keys and values, under another name, into which padding enters."""
    torch.manual_seed(0)
    model = MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    )
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(30)
    return model


@pytest.mark.parametrize(
    ("make", "trusted"), [(gpt2, True), (sliding, True), (hybrid, True), (recurrent, False)]
)
def test_other_architectures_and_training_mode(make, trusted):
    model = make().train()
    answers = run(model)
    assert model.training
    model.eval()
    for decoded, logits, tokens in along(model, answers):
        expected = logits.double().log_softmax(-1).gather(-1, tokens)[:, 0]
        assert torch.tensor(decoded.logprobs, dtype=torch.float64) == pytest.approx(expected, abs=2e-5)
    assert supports_kv_cache(model) is trusted


def test_which_caches_are_trusted(capsys):
    for make in (gpt2, sliding, hybrid):
        assert find_cache_mismatch(make().eval()) == ""
    model = recurrent().eval()
    for _ in range(2):
        assert not supports_kv_cache(model)
    said = capsys.readouterr().err
    assert said.count("cannot decode a padded batch with its cache (a log-probability is off by") == 1


@pytest.mark.parametrize("fault", ["padding", "rows", "error"])
def test_a_cache_that_is_wrong_in_one_thing_is_noticed(monkeypatch, fault):
    """Padding that is attended to; rows that are not those that stay; a cache that breaks."""
    advance, keep = DecodingState._advance, DecodingState.select_rows

    def read_padding(state, ids):
        state._padding = torch.zeros_like(state._padding)
        return advance(state, ids)

    def keep_others(state, rows):
        keep(state, rows if len(rows) == 3 else rows.flip(0))

    def break_down(state, ids):
        raise RuntimeError("The size of tensor a (32) must match the size of tensor b (15)")

    if fault == "rows":
        monkeypatch.setattr(DecodingState, "select_rows", keep_others)
    else:
        monkeypatch.setattr(DecodingState, "_advance", {"padding": read_padding, "error": break_down}[fault])
    assert find_cache_mismatch(gpt2().eval())


def test_a_fault_of_the_device_says_nothing_of_the_cache(monkeypatch):
    def no_memory(state, ids):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(DecodingState, "_advance", no_memory)
    with pytest.raises(torch.OutOfMemoryError):
        find_cache_mismatch(gpt2().eval())


def test_rows_that_are_read_again_are_those_of_the_cache(monkeypatch):
    model = gpt2().double().eval()
    monkeypatch.setattr(continuous_batching, "supports_kv_cache", lambda model: True)
    cached = run(model)
    monkeypatch.setattr(continuous_batching, "supports_kv_cache", lambda model: False)
    again = run(model)
    assert tokens_of(again) == tokens_of(cached)
    for mine, other in zip(itertools.chain(*again), itertools.chain(*cached), strict=True):
        assert mine.logprobs == pytest.approx(other.logprobs, abs=1e-11)


def test_rows_of_any_lengths_are_read_again_in_their_order():
    model = gpt2().double().eval()
    state = UncachedRows(model, "fp32", [(1, 2, 3), (4, 5, 6, 7, 8), (9, 10, 11)], [1, 10, 2])
    state.select_rows(torch.tensor([12, 3, 0]))
    state.step(torch.tensor([20, 21, 22]))
    for found, row in zip(state.logits, [(9, 10, 11, 20), (4, 5, 6, 7, 8, 21), (1, 2, 3, 22)], strict=True):
        torch.testing.assert_close(found, model(torch.tensor([row])).logits[0, -1], rtol=0, atol=1e-12)


def test_numbers_that_neither_way_has_are_no_fault_of_the_cache():
    model = gpt2().eval()
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(torch.nan)
    assert find_cache_mismatch(model) == ""
    with pytest.raises(errors.NonFiniteLogits):
        run(model)


def test_the_model_can_be_trained_after_sampling():
    model = tiny_llama(VOCABULARY)
    run(model)
    model(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    for _ in stream_tokens(model, PROMPTS[0], 0, STOPS, CONFIG):
        assert torch.is_grad_enabled()


def test_answers_stop_at_a_stop_token_and_keep_it():
    model = tiny_llama(VOCABULARY)
    decoded = list(itertools.chain(*run(model)))
    assert {answer.finish_reason for answer in decoded} == {"stop", "length"}
    for answer in decoded:
        stops = [position for position, token in enumerate(answer.token_ids) if token in STOPS]
        assert len(answer.token_ids) == len(answer.logprobs) == len(answer.model_logprobs)
        if answer.finish_reason == "stop":
            assert stops == [len(answer.token_ids) - 1]
        else:
            assert not stops
            assert len(answer.token_ids) == CONFIG.max_new_tokens


def test_a_stop_token_at_the_last_position_is_an_end():
    model = tiny_llama(VOCABULARY)
    whole = next(answer for answer in itertools.chain(*run(model)) if answer.finish_reason == "stop")
    row, column = next(
        (row, column)
        for row, own in enumerate(run(model))
        for column, answer in enumerate(own)
        if answer.token_ids == whole.token_ids
    )
    config = replace(CONFIG, max_new_tokens=len(whole.token_ids))
    assert run(model, config)[row][column].finish_reason == "stop"


def test_without_stop_tokens_every_answer_has_full_length():
    answers = run(tiny_llama(VOCABULARY), stops=())
    assert {len(answer.token_ids) for own in answers for answer in own} == {CONFIG.max_new_tokens}


def test_greedy_answers_follow_the_most_probable_token():
    model = exact_llama(VOCABULARY)
    answers = run(model, replace(CONFIG, temperature=0))
    for decoded, logits, tokens in along(model, answers):
        assert torch.equal(logits.argmax(-1), tokens[:, 0])
        assert set(decoded.logprobs) == {0.0}
        expected = logits.log_softmax(-1).gather(-1, tokens)[:, 0]
        assert torch.tensor(decoded.model_logprobs, dtype=torch.float64) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.5}, {"top_k": 3}, {"top_p": 0.7}, {"temperature": 2.0, "top_k": 4}]
)
def test_samples_follow_the_exact_distribution_of_sequences(settings):
    """Frequencies of all sequences, along random projections, lie within their standard error."""
    size, length, count = 5, 3, 6000
    model = exact_llama(size)
    config = SamplingConfig(max_new_tokens=length, decode_batch_size=1500, **settings)
    sequences = list(enumerate_sequences(size, length, stop=0))
    probabilities = torch.tensor(
        [sequence_probability(model, (1, 2), sequence, config) for sequence in sequences], dtype=torch.float64
    )
    assert float(probabilities.sum()) == pytest.approx(1, abs=1e-9)
    index = {sequence: place for place, sequence in enumerate(sequences)}
    [answers] = sample_tokens(model, [(1, 2)], [range(count)], {0}, 0, config)
    counts = torch.zeros(len(sequences), dtype=torch.float64)
    for answer in answers:
        counts[index[answer.token_ids]] += 1
        expected = math.log(probabilities[index[answer.token_ids]])
        assert sum(answer.logprobs) == pytest.approx(expected, abs=1e-9)
    projections = torch.randn(
        20, len(sequences), generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    error = projections @ (counts / count - probabilities)
    variance = (projections**2 @ probabilities - (projections @ probabilities) ** 2) / count
    z = error / variance.sqrt()
    assert z.abs().max() < 4
    assert float((z**2).mean()) < 2.5


def enumerate_sequences(size, length, stop):
    for own_length in range(1, length + 1):
        for body in itertools.product([t for t in range(size) if t != stop], repeat=own_length - 1):
            yield (*body, stop)
    yield from itertools.product([t for t in range(size) if t != stop], repeat=length)


def sequence_probability(model, prompt, sequence, config):
    probability = 1.0
    for logits, token in zip(logits_along(model, prompt, sequence), sequence, strict=True):
        scaled = logits / config.temperature
        order = scaled.argsort(descending=True).tolist()
        kept = order[: config.top_k] if config.top_k else order
        weights = {index: math.exp(scaled[index]) for index in kept}
        total, mass, nucleus = sum(weights.values()), 0.0, {}
        for index in kept:
            if mass / total >= config.top_p:
                break
            nucleus[index] = weights[index]
            mass += weights[index]
        probability *= nucleus.get(token, 0.0) / sum(nucleus.values())
    return probability


def test_streaming_draws_the_same_tokens():
    model = exact_llama(VOCABULARY)
    expected = run(model)[1][2]
    steps = list(stream_tokens(model, PROMPTS[1], SEEDS[1][2], STOPS, CONFIG))
    assert tuple(step.token_id for step in steps) == expected.token_ids
    assert [step.logprob for step in steps] == pytest.approx(expected.logprobs, abs=1e-12)
    assert [step.model_logprob for step in steps] == pytest.approx(expected.model_logprobs, abs=1e-12)


def test_batches_are_reported_as_they_come():
    seen = []
    answers = run(tiny_llama(VOCABULARY), replace(CONFIG, decode_batch_size=8), on_batch=seen.append)
    assert sum(len(batch) for batch in seen) == 30
    assert len(seen) > 3
    assert {(place.prompt, place.answer): place.sampled for batch in seen for place in batch} == {
        (row, column): decoded for row, own in enumerate(answers) for column, decoded in enumerate(own)
    }


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"temperature": 1e-12},
        {"top_k": -1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_p": math.nan},
        {"decode_batch_size": 0},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(errors.BadConfig) as fault:
        SamplingConfig(**settings)
    assert fault.value.where == "--" + next(iter(settings)).replace("_", "-")


@pytest.mark.parametrize(
    ("prompt", "fault"),
    [
        ([], errors.BadConfig),
        ([1, VOCABULARY], errors.BadConfig),
        ([-1], errors.BadConfig),
        ([1] * 500, errors.PromptTooLong),
    ],
)
def test_prompts_that_cannot_be_answered_are_named(prompt, fault):
    with pytest.raises(fault) as raised:
        run(tiny_llama(VOCABULARY), prompts=[[1], prompt], seeds=[[0], [1]])
    assert raised.value.where == "prompt 2"


def test_logits_that_are_nan_have_a_name():
    model = tiny_llama(VOCABULARY)
    with torch.no_grad():
        model.model.norm.weight[0] = torch.nan
    with pytest.raises(errors.NonFiniteLogits):
        run(model)


def test_memory_that_runs_out_has_a_name(monkeypatch):
    def fail(*_args, **_options):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes")

    model = tiny_llama(VOCABULARY)
    monkeypatch.setattr(SharedPromptCache, "step", fail)
    with pytest.raises(errors.OutOfMemory, match="30 answers"):
        run(model)
