"""The prompt of a request, as a checkpoint's chat template words it, and the tokens that it is made of.

Text of a data set stays text: where it spells a control token, as `<|im_end|>` or `<think>`, it is tokenized letter by
letter. Only the template's own tokens count as such.
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
"""Characters for private use. Two that are in no text of a prompt stand around the number of a covered token."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What the chat template makes of a request, with `Family.mark` where the video belongs."""

    text: str
    """In which covers stand for tokens that the data spells."""
    covered: Mapping[str, str]
    """By cover, what the data spells."""

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
        """Render a request.

        The video, if it is asked about, stands before the question, so that other questions can share the prefix.

        Args:
            processor: the checkpoint's.
            family: how the checkpoint takes a video, and a system prompt.
            request: to render.
            switches: variables of the template; see `reelscribe.engines.thinking.template_switches`.
            hears: whether the sound of the video stands beside it.
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
        """The same with a video's layout in place of the mark."""
        return Prompt(text=self.text.replace(mark, layout, 1), covered=self.covered)

    def ids(self, tokenizer: Any) -> list[int]:
        """The tokens."""
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
    """Take the pair of vision tokens away that a chat template has around a video.

    Each pair of frames will be wrapped in one of its own, and the models were released knowing the layout without the
    outer one.
    """
    video = processor.video_token
    return text.replace(f"{processor.vision_start_token}{video}{processor.vision_end_token}", video)


def _covers(tokens: Collection[str], texts: list[str]) -> dict[str, str]:
    """Of these tokens those that texts spell, the longest first, each with what is to stand for it."""
    found = [token for token in _longest_first(dict.fromkeys(tokens)) if any(token in text for text in texts)]
    unused = (chr(code) for code in _COVERS if not any(chr(code) in text for text in texts))
    begin, end = next(unused, "\1"), next(unused, "\2")
    return {token: f"{begin}{number}{end}" for number, token in enumerate(found)}


def _longest_first(tokens: Collection[str]) -> list[str]:
    return sorted(tokens, key=len, reverse=True)


@lru_cache(maxsize=4)
def _without_added_tokens(tokenizer: Any) -> "Tokenizer":
    """The same tokenizer that knows none of the tokens which were added to its vocabulary."""
    from tokenizers import Tokenizer

    told = json.loads(tokenizer.backend_tokenizer.to_str())
    return Tokenizer.from_str(json.dumps(told | {"added_tokens": [], "truncation": None, "padding": None}))
