"""How a checkpoint's template and tokenizer deal with thoughts: see `reelscribe.thoughts`."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from reelscribe.thoughts import CLOSING, OPENING
from reelscribe.values import Generation

_SWITCHES: Final = ("enable_thinking", "thinking")
"""Variables of chat templates: `enable_thinking` in those of Qwen, GLM, Gemma, MiniCPM and ERNIE; `thinking` in those
of Kimi, DeepSeek and Granite."""
_TAIL: Final = 16
"""Tokens at the end of a prompt among which an opening mark and its line break are, also if the mark is spelt out."""


def template_switches(processor: Any, *, thinking: bool) -> Mapping[str, bool]:
    """The variables by which the chat template of a checkpoint is told whether to let the model think.

    A variable counts if it makes a difference to what is rendered. Most templates have none.
    """
    template = processor.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    question = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}]

    def render(name: str, value: bool) -> str:
        # The processor would take a variable that its template does not have for one of its own arguments.
        rendered: str = processor.tokenizer.apply_chat_template(
            question, chat_template=template, tokenize=False, add_generation_prompt=True, **{name: value}
        )
        return rendered

    return {
        name: thinking for name in _SWITCHES if name in (template or "") and render(name, True) != render(name, False)
    }


def opens_thought(tokenizer: Any, prompt_ids: Sequence[int]) -> bool:
    """Whether a prompt ends with the opening mark, so that the answer begins with a thought."""
    tail: str = tokenizer.decode(list(prompt_ids[-_TAIL:]), skip_special_tokens=False)
    return tail.rstrip().endswith(OPENING)


def with_opening(generation: Generation) -> Generation:
    """The same with the opening mark, which stands at the end of the prompt, before each candidate."""
    opened = (replace(candidate, text=OPENING + candidate.text) for candidate in generation.candidates)
    return replace(generation, candidates=tuple(opened))


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """The text of generated tokens, without special tokens but for the marks of thoughts."""
    marks = special_marks(tokenizer)
    if not marks:  # most tokenizers have the marks as tokens that are not special, or not at all
        text: str = tokenizer.decode(tokens, skip_special_tokens=True)
        return text
    parts = []
    for mark, group in itertools.groupby(tokens, marks.get):
        held = list(group)
        parts.append(mark * len(held) if mark else tokenizer.decode(held, skip_special_tokens=True))
    return "".join(parts)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """A text up to the first stop string in it."""
    return text[: min((text.find(each) for each in stop if each in text), default=len(text))]


@lru_cache(maxsize=4)
def special_marks(tokenizer: Any) -> Mapping[int, str]:
    """By token, the marks that this tokenizer has as special tokens, which decoding without these would drop."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        token: entry.content for token, entry in added.items() if entry.special and entry.content in (OPENING, CLOSING)
    }
