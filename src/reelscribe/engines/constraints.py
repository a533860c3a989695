"""Constraining answers to a schema: which tokens may come next in each answer.

llguidance parses an answer token by token, and says which tokens of the vocabulary can lead to JSON that matches the
schema. White space between the parts of the JSON is not allowed, because models are known to loop in it. An end token
is allowed only when the JSON is complete.
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
    """The state of one answer that must match a schema.

    Args:
        matcher: llguidance's matcher for the schema, at the beginning of the answer.
    """

    def __init__(self, matcher: "LLMatcher") -> None:
        self.matcher = matcher

    def accept(self, token: int) -> bool:
        """Append the next token, which must not be an end token. Returns whether the answer is complete."""
        self.matcher.consume_token(token)
        return self.matcher.is_stopped()  # only an end token may follow, or the matcher failed; see `error`

    @property
    def error(self) -> str:
        """Why the matcher failed, for example at a limit on time or memory in llguidance. Empty if it did not."""
        return self.matcher.get_error().partition("\n")[0]


class Constraints:
    """Compiles schemas for a checkpoint, and computes which tokens may come next.

    Args:
        tokenizer: the checkpoint's tokenizer.
        end_ids: its end tokens.
    """

    def __init__(self, tokenizer: Any, end_ids: Collection[int]) -> None:
        self._tokenizer, self._end_ids = tokenizer, sorted(end_ids)
        self._lock = threading.Lock()
        self._known: LLTokenizer | None = None
        """llguidance's copy of the tokenizer, made when first needed: 150,000 tokens take a second."""
        self._matchers: dict[Schema, LLMatcher] = {}
        self._executor: Any = None

    def begin(self, schema: Schema) -> Constraint:
        """The constraint of an answer that has not begun yet. A schema is compiled at its first use.

        Raises:
            SettingsError: the schema cannot be enforced token by token, or llguidance does not support the tokenizer.
            MissingExtraError: the extra `structured` is not installed.
        """
        with self._lock:  # requests are prepared in another thread
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
            except Exception as exc:  # a tokenizer that llguidance does not support raises all kinds of errors
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
        """Which tokens may come next in each answer.

        Args:
            answers: at least one.
            vocabulary: the number of tokens that the model scores. Those that the tokenizer lacks are never allowed.
            device: the device of the result. It is copied there as one bit for each token.

        Returns:
            True for allowed tokens, bool, shape (answers, vocabulary).
        """
        assert self._known is not None
        words = -(-self._known.vocab_size // _WORD_BITS)
        bits = np.zeros((len(answers), words), np.uint32)
        numbered = [(answer.matcher, number) for number, answer in enumerate(answers)]
        self._executor.unsafe_compute_mask_ptr(numbered, bits.ctypes.data, words * bits.itemsize, len(answers))
        packed = torch.from_numpy(bits.view(np.uint8)).to(device)
        missing = max(-(-vocabulary // 8) - packed.shape[1], 0)
        within = torch.arange(8, dtype=torch.uint8, device=device)
        # llguidance counts tokens from a word's lowest bit. That is in its first byte on all machines that PyTorch
        # runs on.
        flat = (pad(packed, (0, missing))[:, :, None] >> within) & 1
        return flat.flatten(1)[:, :vocabulary].bool()
