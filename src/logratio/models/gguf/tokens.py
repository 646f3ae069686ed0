"""The tokenizer of a GGUF file: what its metadata say is held against the tokenizer that was built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from logratio.models.gguf.header import GGUFHeader

SPECIAL = {
    "eos_token_id": "eos_token",
    "bos_token_id": "bos_token",
    "unknown_token_id": "unk_token",
    "padding_token_id": "pad_token",
}
TURN_ENDS = ("eot_token_id", "eom_token_id")
"""Tokens at which llama.cpp ends an answer too."""
GPT2_SPLIT = ("default", "gpt-2", "gpt2")
DIGITS_APART = (
    "smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "granite-docling"
)  # fmt: skip
"""Vocabularies whose texts are split at each digit and then as GPT-2's are."""
PROBES = ("a", "A man's cat, 1234 of them!\n\n  x = y", " \u00e9 \u4f60\u597d")
"""Texts with what tokenizers treat differently: spaces, digits, lines, signs, letters of other scripts."""
USED = {
    "ggml.model", "ggml.pre", "ggml.tokens", "ggml.scores", "ggml.token_type", "ggml.merges",
    "ggml.add_bos_token", "ggml.add_eos_token", "ggml.add_space_prefix", "chat_template", "chat_templates",
    *(f"ggml.{key}" for key in (*SPECIAL, *TURN_ENDS)),
}  # fmt: skip
"""Keys under `tokenizer.` that are used, or held against what was built."""
ROLES = ("fim_", "prefix_", "suffix_", "middle_", "seperator_", "separator_", "cls_", "mask_")
"""Beginnings of the names of tokens that have a part to play in other tasks only."""


def check_tokens(header: GGUFHeader) -> None:
    """Raise `ModelNotFound` where the file has no tokens, or names one that it does not have."""
    tokens = _tokenizer_metadata(header).get("ggml.tokens")
    if not tokens:
        raise header.fault(
            "it has no tokens (tokenizer.ggml.tokens)",
            action="give the whole model's file, or the transformers directory",
        )
    for key in (*SPECIAL, *TURN_ENDS):
        token_id = _tokenizer_metadata(header).get(f"ggml.{key}")
        if token_id is not None and not 0 <= token_id < len(tokens):
            raise header.fault(
                f"tokenizer.ggml.{key} is {token_id}, and it has {len(tokens)} tokens",
                action="convert the model again",
            )


def split_digits(header: GGUFHeader, tokenizer: Any) -> None:
    """Split texts as the vocabulary's merges were learned, where transformers knows the name and not how."""
    from tokenizers import pre_tokenizers

    metadata = _tokenizer_metadata(header)
    if metadata.get("ggml.model") == "gpt2" and metadata.get("ggml.pre") in DIGITS_APART:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
            ]
        )


def turn_ends(header: GGUFHeader) -> list[int]:
    """The tokens at which an answer ends: the end of a text and of a turn, each once."""
    metadata = _tokenizer_metadata(header)
    found = [metadata.get(f"ggml.{key}") for key in ("eos_token_id", *TURN_ENDS)]
    return list(dict.fromkeys(token_id for token_id in found if token_id is not None))


def check_tokenizer(header: GGUFHeader, tokenizer: Any) -> tuple[str, ...]:
    """Sentences on what the tokenizer that was built does not have of the file's.

    Raises:
        ModelNotFound: a special token is another one.
    """
    metadata = _tokenizer_metadata(header)
    tokens = metadata["ggml.tokens"]
    for key, name in SPECIAL.items():
        token_id, found = metadata.get(f"ggml.{key}"), getattr(tokenizer, f"{name}_id")
        if token_id is not None and found != token_id and tokens[token_id] != tokens[found or 0]:
            raise header.fault(
                f"tokenizer.ggml.{key} is {token_id} ({tokens[token_id]!r}), and the tokenizer built "
                f"of the file "
                f"has {found}",
                action="give the transformers directory of this model",
            )
    return (
        *_count_notes(metadata, tokenizer),
        *_split_notes(metadata),
        *_ends_notes(metadata, tokenizer),
        *_template_notes(header, metadata, tokenizer),
        *_unused_notes(metadata),
    )


def check_same_pieces(header: GGUFHeader, built: Any, saved: Any) -> None:
    """Raise `ModelNotFound` where a tokenizer reads texts otherwise once it was saved and opened again."""
    for text in PROBES:
        if built.encode(text) != saved.encode(text):
            raise header.fault(
                f"the tokenizer that transformers builds of it reads {text!r} otherwise once it is saved",
                action="give the transformers directory of this model",
            )


def _tokenizer_metadata(header: GGUFHeader) -> dict[str, Any]:
    return {
        key.removeprefix("tokenizer."): value
        for key, value in header.metadata.items()
        if key.startswith("tokenizer.")
    }


def _count_notes(metadata: Mapping[str, Any], tokenizer: Any) -> tuple[str, ...]:
    missing = sorted(set(range(len(metadata["ggml.tokens"]))) - set(tokenizer.get_vocab().values()))
    if not missing:
        return ()
    few = ", ".join(f"{token_id} {metadata['ggml.tokens'][token_id]!r}" for token_id in missing[:3])
    return (
        f"{len(missing)} of the file's {len(metadata['ggml.tokens'])} tokens are not in the tokenizer: {few}",
    )


def _split_notes(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    name = metadata.get("ggml.pre")
    known = (*GPT2_SPLIT, *DIGITS_APART, *GGUF_PRE_TOKENIZER_SPLITS)
    if name is None or metadata.get("ggml.model") != "gpt2" or name in known:
        return ()
    return (f"the file's way to split texts, {name}, is not known: they are split as GPT-2's are",)


def _ends_notes(metadata: Mapping[str, Any], tokenizer: Any) -> tuple[str, ...]:
    """Tokens and a space that the file wants around each text, where the tokenizer does otherwise."""
    plain, around = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    built = {
        "add_bos_token": tokenizer.bos_token_id is not None and around[:1] == [tokenizer.bos_token_id],
        "add_eos_token": tokenizer.eos_token_id is not None and around[-1:] == [tokenizer.eos_token_id],
    }
    if metadata.get("ggml.model") == "llama":
        built["add_space_prefix"] = tokenizer.convert_ids_to_tokens(plain)[0].startswith("\u2581")
    return tuple(
        f"tokenizer.ggml.{key} is {metadata[f'ggml.{key}']}, and the tokenizer built of the file"
        " does otherwise"
        for key, does in built.items()
        if bool(metadata.get(f"ggml.{key}", does)) != does
    )


def _template_notes(header: GGUFHeader, metadata: Mapping[str, Any], tokenizer: Any) -> tuple[str, ...]:
    template = metadata.get("chat_template")
    if template is not None and tokenizer.chat_template != template:
        raise header.fault(
            "the tokenizer built of the file does not have its chat template",
            action="give the transformers directory of this model",
        )
    others = sorted(
        key.removeprefix("chat_template.") for key in metadata if key.startswith("chat_template.")
    )
    if not others:
        return ()
    taken = "its default chat template is used" if template is not None else "it has no default chat template"
    return (f"{taken}; not used: its chat templates {', '.join(others)}",)


def _unused_notes(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    unused = [
        key
        for key, value in metadata.items()
        if key not in USED
        and not key.startswith("chat_template.")
        and not key.removeprefix("ggml.").startswith(ROLES)
        and value not in (0, None, False, "")
    ]
    if not unused:
        return ()
    return (f"not used of its metadata: {', '.join(f'tokenizer.{key}' for key in sorted(unused))}",)
