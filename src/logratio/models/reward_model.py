"""Models that give a whole text one number: a language model's body with a scalar head.

Underneath is transformers' own class for sequence classification with one label, so that what
`loading.save` writes opens there and gives the same scores. That class reads the score at the rightmost
token which is not padding: where a tokenizer pads with its end token, it would read before the end token, and
so another token pads here.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, GenerationConfig

from logratio.errors import BadConfig, ChatTemplateMismatch, ModelNotFound
from logratio.models import loading
from logratio.models.config_limits import KNOWN_ROWS
from logratio.models.sources import local_directory
from logratio.models.tokenisation import has_chat_template, stop_token_ids

NEW_PADDING = "<|pad|>"
FORM = "logratio_conversation"
"""Key of the saved configuration that says how conversations were written: `template` or `transcript`."""
DECODERS = "take a decoder such as Llama, Qwen, Mistral, Gemma or GPT-2"


@dataclass(frozen=True, kw_only=True)
class LoadedRewardModel:
    """A scoring model in evaluation mode with its tokenizer."""

    model: Any
    """A transformers model for sequence classification with one label."""
    tokenizer: Any
    """Its tokenizer; its padding token ends no text."""
    fingerprint: str
    """The first 16 hexadecimal digits of the sha256 of the weights."""
    notes: tuple[str, ...] = ()
    """What loading changed, in sentences worth showing."""


def is_reward_model(directory: Path) -> bool:
    """Whether a model's directory holds a classifier rather than a language model."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return any(str(name).endswith("ForSequenceClassification") for name in config.get("architectures") or ())


def load_for_training(source: str, *, seed: int, device: str = "cpu") -> LoadedRewardModel:
    """Open what a reward model is trained from: a language model, which gets a head, or a reward model.

    The head is drawn from a normal distribution with standard deviation `1/√(hidden + 1)` (Huang et al.,
    2024, arXiv:2403.17031), so that the first scores are of order 1. It is a function of the seed, so that a
    run that is resumed starts from the same weights.

    Args:
        source: as for `loading.load`.
        seed: of the head.
        device: where to compute.

    Raises:
        ModelNotFound, UnsafeArtifact, SpecialTokenTrouble: as for `loading.load`.
        BadConfig: as there, or transformers knows no scalar head for this architecture.
    """
    if is_reward_model(local_directory(source)):
        return load_reward_model(source, device=device)
    loaded = loading.load(source, device=device)
    model = add_score_head(loaded.model, source=source, seed=seed)
    setattr(model.config, FORM, "template" if has_chat_template(loaded.tokenizer) else "transcript")
    return _finish(model, loaded.tokenizer, notes=loaded.notes)


def load_reward_model(source: str, *, device: str = "cpu") -> LoadedRewardModel:
    """Open a reward model: a run's directory, or one that transformers opens as a classifier of one label.

    Raises:
        ModelNotFound: `source` leads to nothing that can be loaded, or to a model that gives no score.
        UnsafeArtifact, SpecialTokenTrouble, BadConfig: as for `loading.load`.
        ChatTemplateMismatch: its tokenizer has no chat template and nobody knows how it reads conversations.
    """
    directory, checked = local_directory(source), loading.check_device(device)
    if not is_reward_model(directory):
        raise ModelNotFound(
            "this model gives no score: it is a language model, not a reward model",
            where=source,
            action="train one from it with `logratio train reward`",
        )
    tokenizer = loading.load_tokenizer(source)
    model = _open_classifier(directory, source)
    if not (has_chat_template(tokenizer) or getattr(model.config, FORM, None) == "transcript"):
        raise ChatTemplateMismatch(
            "its tokenizer has no chat template, so that nobody knows how it is to read a conversation",
            where=source,
            action="put its chat_template.jinja beside the weights",
        )
    return _finish(model.to(checked), tokenizer, notes=())


def add_score_head(language_model: Any, *, source: str, seed: int) -> Any:
    """The classifier of the same architecture around the same body, with a head drawn from `seed`.

    Args:
        language_model: a transformers model for causal language modelling; its body and configuration are
            used, not copied.
        source: what it is called in a fault.
        seed: of the head.

    Raises:
        BadConfig: transformers has no such classifier, or its head is not one linear map.
    """
    config = language_model.config
    config.num_labels = 1
    body = language_model.base_model
    try:
        # Without memory and without a draw from the global generator: body and head are put in below.
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config)
    except ValueError as error:
        raise BadConfig(
            f"transformers has no classifier for the architecture {config.model_type}",
            where=source,
            action=DECODERS,
        ) from error
    ensure_scalar_head(model, source=source)
    setattr(model, model.base_model_prefix, body)
    # The layers hold this very configuration: what is set in it reaches them.
    model.config = config
    hidden = model.score.in_features
    drawn = torch.randn(1, hidden, generator=torch.Generator().manual_seed(seed)) / (hidden + 1) ** 0.5
    model.score = nn.Linear(hidden, 1, bias=False, device="meta")
    model.score.weight = nn.Parameter(drawn.to(next(body.parameters())))
    model.generation_config = language_model.generation_config
    return model


def ensure_scalar_head(model: Any, *, source: str) -> None:
    """Raise `BadConfig` unless the model's head is one linear map to one number, called `score`."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Linear) or head.out_features != 1:
        raise BadConfig(
            f"{type(model).__name__} has no head that gives one number behind a decoder",
            where=source,
            action=DECODERS,
        )


@loading.without_progress_bars()
def _open_classifier(directory: Path, source: str) -> Any:
    place = {"pretrained_model_name_or_path": str(directory), "local_files_only": True}
    try:
        config = AutoConfig.from_pretrained(**place)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            **place, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
    except Exception as error:  # transformers raises whatever a file makes it raise
        raise ModelNotFound(
            f"the reward model cannot be loaded: {str(error).strip().splitlines()[0][:200]}",
            where=source,
            action="it must be a decoder with a head of one label that transformers knows, with whole files",
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers would fill these with random numbers and go on.
        raise ModelNotFound(
            f"{len(missing)} weights are not in its files, {missing[0]} among them",
            where=source,
            action="download or save it again: a file is missing, or the head was never trained",
        )
    ensure_scalar_head(model, source=source)
    return model


def _finish(model: Any, tokenizer: Any, *, notes: tuple[str, ...]) -> LoadedRewardModel:
    # A classifier generates nothing; `loading.save` and the search for end tokens look for this anyway.
    model.generation_config = getattr(model, "generation_config", None) or GenerationConfig()
    settled = choose_pad_token(model, tokenizer)
    return LoadedRewardModel(
        model=model.eval(),
        tokenizer=tokenizer,
        fingerprint=loading.weights_fingerprint(model),
        notes=(*notes, *settled),
    )


def choose_pad_token(model: Any, tokenizer: Any) -> tuple[str, ...]:
    """Let a token pad that ends no text, in tokenizer and configuration; returns a note where that is new.

    The padding token stays where it can. Otherwise it is another control token, the begin token last, or a
    new one.
    """
    before = tokenizer.pad_token
    ends = stop_token_ids(tokenizer, model.generation_config)
    special = [token for token, added in tokenizer.added_tokens_decoder.items() if added.special]
    others = sorted(special, key=lambda token: (token == tokenizer.bos_token_id, token))
    rows = model.get_input_embeddings().num_embeddings
    possible = [token for token in (tokenizer.pad_token_id, *others) if token not in ends and token < rows]
    widened = ""
    if possible:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(possible[0])
    else:
        tokenizer.add_special_tokens({"pad_token": NEW_PADDING})
        widened = _widen(model, num_tokens=tokenizer.pad_token_id + 1)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    # The row that pads takes no gradient. It may have been the end token's, which is read here.
    model.get_input_embeddings().padding_idx = None
    if tokenizer.pad_token == before:
        return ()
    return (
        f"{before!r} ends answers, so that a score would be read before it: {tokenizer.pad_token!r} pads"
        f"{widened}",
    )


def _widen(model: Any, *, num_tokens: int) -> str:
    """Make room for a new token; returns what is to be said of it.

    Its row is never read; it is zero, so that no chance is in the weights. Tokens of the tokenizer that stand
    before it and had no row have none that says anything now: the configuration keeps how many did.
    """
    before = model.get_input_embeddings().num_embeddings
    if num_tokens <= before:
        return ""
    with torch.random.fork_rng(devices=[]):
        model.resize_token_embeddings(num_tokens, mean_resizing=False)
    with torch.no_grad():
        model.get_input_embeddings().weight[before:].zero_()
    setattr(model.config, KNOWN_ROWS, before)
    return f", and the model is widened from {before} to {num_tokens} tokens to hold it"
