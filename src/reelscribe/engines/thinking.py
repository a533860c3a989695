"""Thoughts in a checkpoint's chat template and tokenizer; see `reelscribe.thoughts`."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Final

from reelscribe.thoughts import CLOSING, OPENING
from reelscribe.values import Generation

_SWITCHES: Final = ("enable_thinking", "thinking")
"""Variables of chat templates that turn thinking on or off: `enable_thinking` for Qwen, GLM, Gemma, MiniCPM and ERNIE,
`thinking` for Kimi, DeepSeek and Granite."""
_TAIL: Final = 16
"""Tokens at the end of a prompt in which an opening mark and a line break fit, even if the mark is several tokens."""


def template_switches(processor: Any, *, thinking: bool) -> Mapping[str, bool]:
    """The variables that turn thinking on or off in a checkpoint's chat template, with their values.

    Only variables that change the rendered prompt are returned. Most templates have none.
    """
    template = processor.chat_template
    template = template.get("default") if isinstance(template, dict) else template
    question = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "What happens?"}]}]

    def render(name: str, value: bool) -> str:
        # Call the tokenizer: the processor would take a variable that its template lacks for an argument of its own.
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
    """A copy with the opening mark before each candidate. The mark itself stands at the end of the prompt."""
    opened = (replace(candidate, text=OPENING + candidate.text) for candidate in generation.candidates)
    return replace(generation, candidates=tuple(opened))


def decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Decode generated tokens to text, without special tokens except for the marks of thoughts."""
    marks = special_marks(tokenizer)
    if not marks:  # in most tokenizers the marks are tokens that are not special, or no tokens at all
        text: str = tokenizer.decode(tokens, skip_special_tokens=True)
        return text
    parts = []
    for mark, group in itertools.groupby(tokens, marks.get):
        held = list(group)
        parts.append(mark * len(held) if mark else tokenizer.decode(held, skip_special_tokens=True))
    return "".join(parts)


def before_stop(text: str, stop: Sequence[str]) -> str:
    """The part of a text before the first stop string; the whole text if it has none."""
    return text[: min((text.find(each) for each in stop if each in text), default=len(text))]


@lru_cache(maxsize=4)
def special_marks(tokenizer: Any) -> Mapping[int, str]:
    """The marks of thoughts that are special tokens of this tokenizer, by token. Plain decoding would drop them."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {
        token: entry.content for token, entry in added.items() if entry.special and entry.content in (OPENING, CLOSING)
    }
