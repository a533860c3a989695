"""The prompt of a request, made with a checkpoint's chat template, and its tokens.

Text from a data set stays text: if it spells a control token such as `<|im_end|>` or `<think>`, it is tokenized as
plain text. Only the template can write control tokens.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from reelscribe.engines.stills import HEARD
from reelscribe.values import Request

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from reelscribe.engines.families import Family

_COVERS: Final = range(0xE000, 0xF900)
"""Unicode's private-use characters. A cover, which replaces a token that a text spells, is a number between two of them
that occur in none of the texts."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """The prompt that the chat template makes of a request, with `Family.mark` in place of the video."""

    text: str
    """The prompt. Tokens that the request's texts spell are replaced by covers."""
    covered: Mapping[str, str]
    """The token that each cover stands for."""

    @classmethod
    def of(
        cls,
        processor: Any,
        family: "Family",
        request: Request,
        switches: Mapping[str, bool] | None = None,
        *,
        hears: bool = False,
    ) -> "Prompt":
        """Render a request with the chat template.

        The video, if the request shows it, stands before the question, so that other questions can share the prefix.

        Args:
            processor: the checkpoint's processor.
            family: how the checkpoint takes a video and a system prompt.
            request: the request.
            switches: variables of the template; see `reelscribe.engines.thinking.template_switches`.
            hears: whether the sound of the video follows it as a part of its own.
        """
        texts = [request.system_prompt or "", request.prompt]
        covers = _covers([*processor.tokenizer.get_added_vocab(), family.mark], texts)
        pattern = re.compile("|".join(map(re.escape, covers)) or r"(?!)")
        system, asked = (pattern.sub(lambda found: covers[found[0]], text) for text in texts)
        video = [family.part] if request.video else []
        if video and hears:
            video += [{"type": "text", "text": HEARD}, {"type": "audio"}]
        if system and family.system == "question":
            asked = f"{system}\n\n{asked}"
        messages: list[Any] = [{"role": "user", "content": [*video, {"type": "text", "text": asked}]}]
        if system and family.system != "question":
            given = system if family.system == "text" else [{"type": "text", "text": system}]
            messages.insert(0, {"role": "system", "content": given})
        text: str = processor.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, **(switches or {})
        )
        if family.bare:
            text = bare_video(text, processor)
        return cls(text=family.opening + text, covered={cover: token for token, cover in covers.items()})

    def with_video(self, mark: str, layout: str) -> "Prompt":
        """A copy with a video's layout in place of the mark."""
        return Prompt(text=self.text.replace(mark, layout, 1), covered=self.covered)

    def ids(self, tokenizer: Any) -> list[int]:
        """Tokenize the prompt. Covered texts become plain text, never control tokens."""
        begun = bool(tokenizer.bos_token) and self.text.startswith(tokenizer.bos_token)
        if not self.covered:
            ids: list[int] = tokenizer(self.text, add_special_tokens=not begun)["input_ids"]
            return ids
        added: dict[str, int] = tokenizer.get_added_vocab()
        plain = _without_added_tokens(tokenizer)
        made: list[int] = [] if begun else list(tokenizer("")["input_ids"])
        for part in re.split(f"({'|'.join(map(re.escape, _longest_first(added)))})", self.text):
            made += (
                [added[part]] if part in added else plain.encode(self._uncovered(part), add_special_tokens=False).ids
            )
        return made

    def _uncovered(self, text: str) -> str:
        for cover, token in self.covered.items():
            text = text.replace(cover, token)
        return text


def bare_video(text: str, processor: Any) -> str:
    """Remove the pair of vision tokens that a chat template writes around a video.

    The processor wraps each pair of frames in such a pair, and the models were trained without the outer one.
    """
    video = processor.video_token
    return text.replace(f"{processor.vision_start_token}{video}{processor.vision_end_token}", video)


def _covers(tokens: Collection[str], texts: list[str]) -> dict[str, str]:
    """The covers of those tokens that the texts spell, by token, the longest token first."""
    found = [token for token in _longest_first(dict.fromkeys(tokens)) if any(token in text for text in texts)]
    unused = (chr(code) for code in _COVERS if not any(chr(code) in text for text in texts))
    begin, end = next(unused, "\1"), next(unused, "\2")
    return {token: f"{begin}{number}{end}" for number, token in enumerate(found)}


def _longest_first(tokens: Collection[str]) -> list[str]:
    return sorted(tokens, key=len, reverse=True)


@lru_cache(maxsize=4)
def _without_added_tokens(tokenizer: Any) -> "Tokenizer":
    """A copy of a tokenizer without the tokens that were added to its vocabulary, such as control tokens."""
    from tokenizers import Tokenizer

    told = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(told | {"added_tokens": [], "truncation": None, "padding": None}))
