"""Answers that are held to a schema: which tokens may come next in each.

llguidance parses an answer token by token, and says which tokens of the vocabulary lead on to JSON that fits. White
space between the tokens of JSON is not among them: models are known to loop in it. An end token is allowed once the
JSON is complete, and nowhere before.
"""

import threading
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch.nn.functional import pad

from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.schemas import Schema

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_WORD_BITS: Final = 32


class Constraint:
    """One answer under way.

    Args:
        matcher: of its schema, and at its beginning.
    """

    def __init__(self, matcher: "LLMatcher") -> None:
        self.matcher = matcher

    def accept(self, token: int) -> bool:
        """Take the next token, which is no end token. Returns whether the JSON is complete."""
        self.matcher.consume_token(token)
        return self.matcher.is_stopped()  # only an end token may follow; or it broke, see `error`

    @property
    def error(self) -> str:
        """Why no more can be said of it: a limit on time or memory in llguidance, say. Empty while all is well."""
        return self.matcher.get_error().partition("\n")[0]


class Constraints:
    """The constraints of a checkpoint's answers.

    Args:
        tokenizer: the checkpoint's.
        end_ids: its end tokens.
    """

    def __init__(self, tokenizer: Any, end_ids: Collection[int]) -> None:
        self._tokenizer, self._end_ids = tokenizer, sorted(end_ids)
        self._lock = threading.Lock()
        self._known: LLTokenizer | None = None
        """The tokenizer as llguidance has it: a second for 150,000 tokens."""
        self._matchers: dict[Schema, LLMatcher] = {}
        self._executor: Any = None

    def begin(self, schema: Schema) -> Constraint:
        """An answer that has not begun yet.

        Raises:
            SettingsError: the schema has what cannot be enforced token by token, or the tokenizer is of another kind.
            MissingExtraError: the extra `structured` is not installed.
        """
        with self._lock:  # requests are made ready in a thread of their own
            if schema not in self._matchers:
                self._matchers[schema] = self._compile(schema)
            return Constraint(self._matchers[schema].deep_copy())

    def _compile(self, schema: Schema) -> "LLMatcher":
        try:
            import llguidance
            from llguidance.hf import from_tokenizer
        except ModuleNotFoundError as exc:
            raise MissingExtraError(f"a schema needs {exc.name}: pip install 'reelscribe[structured]'") from exc

        if self._known is None:
            try:
                self._known = from_tokenizer(self._tokenizer, eos_token=self._end_ids or None)
            except Exception as exc:  # a tokenizer of another kind: whatever reading it raises
                raise SettingsError(f"the model's tokenizer cannot be held to a schema: {exc}.") from exc
            self._executor = llguidance.LLExecutor()
        grammar = llguidance.LLMatcher.grammar_from_json_schema(
            schema.enforced, defaults={"whitespace_flexible": False}
        )
        matcher = llguidance.LLMatcher(self._known, grammar, log_level=0)
        if matcher.is_error():
            said = matcher.get_error().partition("\n")[0]
            raise SettingsError(f"the schema {schema.name!r} cannot be enforced: {said}. Leave that out of it.")
        return matcher

    def allowed(self, answers: Sequence[Constraint], vocabulary: int, device: torch.device) -> torch.Tensor:
        """Which tokens may come next.

        Args:
            answers: at least one.
            vocabulary: how many tokens the model scores. Those that the tokenizer lacks are never allowed.
            device: where to put it. On the way there a token takes a bit.

        Returns:
            bool, shape (answers, vocabulary).
        """
        assert self._known is not None
        words = -(-self._known.vocab_size // _WORD_BITS)
        bits = np.zeros((len(answers), words), np.uint32)
        numbered = [(answer.matcher, number) for number, answer in enumerate(answers)]
        self._executor.unsafe_compute_mask_ptr(numbered, bits.ctypes.data, words * bits.itemsize, len(answers))
        packed = torch.from_numpy(bits.view(np.uint8)).to(device)
        missing = max(-(-vocabulary // 8) - packed.shape[1], 0)
        within = torch.arange(8, dtype=torch.uint8, device=device)
        # Tokens are counted from a word's lowest bit, which is in its first byte on all machines that PyTorch runs on.
        flat = (pad(packed, (0, missing))[:, :, None] >> within) & 1
        return flat.flatten(1)[:, :vocabulary].bool()
