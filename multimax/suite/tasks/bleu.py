"""BLEU by sacrebleu, from sums that add up over processes that each score part of a corpus.

Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", ACL 2002; Post, "A Call for Clarity
in Reporting BLEU Scores", WMT 2018 (1804.08771).
"""

from collections.abc import Mapping, Sequence

from sacrebleu.metrics import BLEU

from multimax.suite.errors import UserError

ORDER = 4


class CorpusBLEU:
    """One way to score translations.

    Args:
        name: of the metric, and the prefix of its sums' names.
        tokenize: sacrebleu's tokeniser, such as 13a; none for words separated by spaces.
        lowercase: whether to ignore case.

    Raises UserError if the tokeniser needs a package that is not installed.
    """

    def __init__(self, name: str, tokenize: str, lowercase: bool):
        self.name = name
        try:
            # force: tokenised text is intended here, not a mistake to warn about
            self.scorer = BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
        except RuntimeError:
            language = tokenize.partition("-")[0]
            raise UserError(
                f"sacrebleu's tokeniser {tokenize} is not installed: pip install 'sacrebleu[{language}]'"
            ) from None

    @property
    def keys(self) -> list[str]:
        """Names of the sums: lengths, and matching and total n-grams for n from 1 to 4."""
        counts = [f"{kind}{n}" for kind in ("matches", "ngrams") for n in range(1, ORDER + 1)]
        return [f"{self.name}_{key}" for key in ("length", "reference_length", *counts)]

    def sums(self, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, float]:
        """The sums over some, perhaps none, of a corpus's sentences."""
        if not hypotheses:
            return dict.fromkeys(self.keys, 0.0)
        score = self.scorer.corpus_score(hypotheses, [references])
        values = (score.sys_len, score.ref_len, *score.counts, *score.totals)
        return dict(zip(self.keys, map(float, values), strict=True))

    def score(self, sums: Mapping[str, float]) -> float:
        """BLEU in percent from the sums over the whole corpus."""
        length, reference_length, *counts = (int(sums[key]) for key in self.keys)
        scorer = self.scorer
        return BLEU.compute_bleu(
            counts[:ORDER],
            counts[ORDER:],
            length,
            reference_length,
            smooth_method=scorer.smooth_method,
            smooth_value=scorer.smooth_value,
            effective_order=scorer.effective_order,
            max_ngram_order=ORDER,
        ).score

    def signature(self) -> str:
        """sacrebleu's own statement of what was computed, with its version."""
        self.scorer.corpus_score(["."], [["."]])  # only after this does it know the number of references
        return str(self.scorer.get_signature())
