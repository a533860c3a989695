"""Statistics of each clip, from whose sums the scores of any set of clips are computed."""

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from reelscribe.errors import MissingExtraError
from reelscribe.evaluation.cider import CiderD
from reelscribe.words import UNSPACED

TokenizerName = Literal["13a", "zh", "char"]
"""Names of sacrebleu's tokenizers. 13a: words and punctuation, for languages with spaces. zh: as 13a, but each Chinese
character is a token. char: each character is a token."""
MetricName = Literal["cider_d", "chrf", "bleu", "rouge_l"]
"""bleu is of the whole data set; the others are means over clips."""
METRICS: Final[tuple[MetricName, ...]] = get_args(MetricName)

_HAN: Final = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
"""A Chinese character."""
_UNSPACED_SHARE: Final = 0.2
"""Minimum share of letters of scripts without spaces for a data set to count as one in such a language."""


class Scorer:
    """Scores captions by references.

    Args:
        references: at least one reference for each of two or more clips.
        tokenizer: splits texts into words, for all metrics except chrF.

    Raises:
        MissingExtraError: the extra `eval` is not installed.
    """

    def __init__(self, references: Sequence[Sequence[str]], tokenizer: TokenizerName) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from sacrebleu.metrics import BLEU, CHRF
        except ModuleNotFoundError as exc:
            raise MissingExtraError(f"scores need {exc.name}: pip install 'reelscribe[eval]'") from exc
        self._split = _splitter(tokenizer)
        # Only the counts of sentence_score are used. effective_order does not change them, but avoids a warning.
        self._bleu: Any = BLEU(tokenize=tokenizer, effective_order=True)
        self._chrf: Any = CHRF()
        self._rouge: Any = RougeScorer(["rougeL"], tokenizer=self)
        self._cider = CiderD([[self.tokenize(text) for text in texts] for texts in references])
        self._references = references

    def tokenize(self, text: str) -> list[str]:
        """The lower-case words of a text without punctuation, for CIDEr-D and ROUGE-L. RougeScorer calls it, too."""
        return [word for word in self._split(text.lower()) if any(map(str.isalnum, word))]

    def statistics(self, captions: Sequence[Sequence[str]]) -> NDArray[np.float64]:
        """Compute the statistics that `scores_of` takes.

        Args:
            captions: at least one caption for each clip; the statistics of several are averaged.

        Returns:
            float64, shape (clips, 13): CIDEr-D, chrF, ROUGE-L; for BLEU, 4 counts of n-grams that match, 4 counts of
            all n-grams, length of the caption, length of the references.
        """
        return np.array(
            [np.mean([self._of(caption, clip) for caption in texts], axis=0) for clip, texts in enumerate(captions)]
        )

    def _of(self, caption: str, clip: int) -> list[float]:
        """The 13 statistics of one caption; see `statistics`."""
        references = self._references[clip]
        words = self.tokenize(caption)
        cider = self._cider.score(words, [self.tokenize(text) for text in references])
        chrf = self._chrf.sentence_score(caption, references).score
        rouge = 100 * self._rouge.score_multi(references, caption)["rougeL"].fmeasure
        bleu = self._bleu.sentence_score(caption, references)
        return [cider, chrf, rouge, *bleu.counts, *bleu.totals, bleu.sys_len, bleu.ref_len]


def scores_of(statistics: NDArray[np.float64], weights: NDArray[np.float64]) -> dict[MetricName, float]:
    """The scores of a data set in which each clip counts `weights` times.

    CIDEr-D, chrF and ROUGE-L are means over clips. BLEU is corpus BLEU.

    Args:
        statistics: statistics of its clips; see `Scorer.statistics`.
        weights: shape (clips,), with a sum above 0.
    """
    from sacrebleu.metrics import BLEU

    sums = weights @ statistics
    cider, chrf, rouge = sums[:3] / weights.sum()
    correct, total = sums[3:7].tolist(), sums[7:11].tolist()
    lengths = [round(length) for length in sums[11:].tolist()]  # sacrebleu takes only whole numbers
    bleu = BLEU.compute_bleu(correct, total, *lengths, smooth_method="exp").score
    return {"cider_d": float(cider), "chrf": float(chrf), "bleu": float(bleu), "rouge_l": float(rouge)}


def tokenizer_for(texts: Sequence[str]) -> TokenizerName:
    """The tokenizer for the language of texts.

    13a; if at least a fifth of the letters are of scripts without spaces, zh for Chinese and char for other languages.
    """
    letters = sum(character.isalpha() for text in texts for character in text)
    unspaced = sum(len(UNSPACED.findall(text)) for text in texts)
    if unspaced < _UNSPACED_SHARE * letters or not unspaced:
        return "13a"
    return "zh" if sum(len(_HAN.findall(text)) for text in texts) == unspaced else "char"


def _splitter(tokenizer: TokenizerName) -> Callable[[str], list[str]]:
    """The function of sacrebleu that splits a text into tokens."""
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
    from sacrebleu.tokenizers.tokenizer_char import TokenizerChar
    from sacrebleu.tokenizers.tokenizer_zh import TokenizerZh

    split: Any = {"13a": Tokenizer13a, "zh": TokenizerZh, "char": TokenizerChar}[tokenizer]()
    return lambda text: str(split(text)).split()
