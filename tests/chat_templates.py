"""Small chat templates of the kinds in use, each with a tokenizer whose marks are tokens."""

from __future__ import annotations

from tokenizers import AddedToken

from tiny_models import tiny_tokenizer

CALLS = (
    "{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + c.function.name + ' ' }}"
    "{{ c.function.arguments if c.function.arguments is string else (c.function.arguments | tojson) }}"
    "{{ '</tool_call>' }}{% endfor %}"
)
HEAD = "{% if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}"
ASK = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

HERMES = (
    HEAD
    + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    + CALLS
    + "{{ '<|im_end|>\n' }}{% endfor %}"
    + ASK
)
REASONING_OF_THE_LAST_TURN = (
    HEAD + "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content or '' }}" + CALLS + "{{ '<|im_end|>\n' }}{% endfor %}" + ASK
)
ANOTHER_END_FOR_CALLS = (
    "{% if tools %}{{ '<|start|>developer<|message|>' + (tools | tojson) + '<|end|>' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + m.thinking + '<|end|>' }}"
    "{% endif %}{% if m.tool_calls %}{% for c in m.tool_calls %}"
    "{{ '<|start|>assistant to=' + c.function.name + '<|message|>' + (c.function.arguments | tojson) }}"
    "{{ '<|call|>' }}{% endfor %}{% else %}"
    "{{ '<|start|>assistant<|channel|>final<|message|>' + m.content }}"
    "{{ '<|return|>' if loop.last else '<|end|>' }}{% endif %}{% else %}"
    "{{ '<|start|>' + m.role + '<|message|>' + m.content + '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"
)
INSTRUCTIONS = (
    "{{ bos_token }}{% if tools %}{{ '[TOOLS]' + (tools | tojson) + '[/TOOLS]' }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST] ' + m.content + ' [/INST]' }}"
    "{% elif m.role == 'tool' %}{{ '[RESULT]' + m.content + '[/RESULT]' }}"
    "{% elif m.tool_calls %}{{ '[CALL]' + (m.tool_calls | tojson) + eos_token }}"
    "{% else %}{{ ' ' + m.content + eos_token }}{% endif %}{% endfor %}"
)
PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{{ part.text }}{% endfor %}{% endif %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + ASK
)
ONLY_PARTS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}" + ASK
)
KINDS = {
    "hermes": HERMES,
    "reasoning of the last turn": REASONING_OF_THE_LAST_TURN,
    "another end for calls": ANOTHER_END_FOR_CALLS,
    "instructions": INSTRUCTIONS,
}


def tokenizer_of(template: str, *, special: tuple[str, ...] = (), plain: tuple[str, ...] = ()):
    """The tiny tokenizer with a template and further tokens, flagged special or not."""
    tokenizer = tiny_tokenizer(chat=False)
    marks = ("<|start|>", "<|message|>", "<|channel|>", "<|end|>", "<|return|>", "<|call|>")
    if template == ANOTHER_END_FOR_CALLS:
        special = (*marks, *special)
    if template == INSTRUCTIONS:
        tokenizer.add_special_tokens({"bos_token": AddedToken("<s>", special=True)})
    tokenizer.add_tokens([AddedToken(one, special=True, normalized=False) for one in special])
    tokenizer.add_tokens([AddedToken(one, special=False, normalized=False) for one in plain])
    tokenizer.chat_template = template
    return tokenizer
