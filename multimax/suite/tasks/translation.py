"""Machine translation: an encoder-decoder on sentence pairs, decoded by beam search and scored by BLEU.

``bleu`` is the tokenised BLEU usual for IWSLT14: sacrebleu, without a tokeniser of its own, on the words of Moses'
tokeniser. ``sacrebleu`` compares text as people read it with the references as given, using sacrebleu's tokeniser for
the target language, 13a for most. On lower-cased data both ignore case, as the ``case:lc`` in their signatures says,
because a model of lower-cased words cannot know better. The two are not comparable; both signatures are in a run's
summary. The best checkpoint is the one with the highest ``bleu`` on the validation data, as in fairseq's recipe: losses
of different functions cannot be compared, and with label smoothing BLEU still rises when the loss no longer falls.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from multimax import reweight
from multimax.suite import decoding
from multimax.suite.config import Reweight, RunConfig
from multimax.suite.data.bitext import TranslationData, open_bitext
from multimax.suite.data.dictionary import PAD
from multimax.suite.data.fingerprint import Fingerprint
from multimax.suite.data.languages import bleu_tokenizer
from multimax.suite.data.left_out import LeftOut, checked, record
from multimax.suite.data.segments import IGNORED
from multimax.suite.data.token_batches import TokenBatches, TranslationBatch, collate, cut_by_tokens, eval_batches
from multimax.suite.decoding import Search
from multimax.suite.errors import UserError
from multimax.suite.models.encoder_decoder import AttentionSites, EncoderDecoder, EncoderDecoderConfig
from multimax.suite.options import bounded
from multimax.suite.plugins import build, has_target, require
from multimax.suite.tasks.base import Sample, Shard, Task, require_same
from multimax.suite.tasks.bleu import CorpusBLEU


@dataclass
class Sites(Reweight):
    """``attention`` sets all three kinds of attention; each of the others, if given, overrides one kind."""

    encoder: dict[str, Any] | None = None  # self-attention of the encoder
    decoder: dict[str, Any] | None = None  # self-attention of the decoder
    cross: dict[str, Any] | None = None  # the decoder's attention to the encoder's output


@dataclass
class Decoding(Search):
    """How data are translated for scoring."""

    batch_tokens: int = bounded(1, default=4096)  # tokens of sentences scored and translated at a time
    # Validation BLEU is over the first this many sentences; None: all.
    validation_sentences: int | None = bounded(1, default=None)


@dataclass
class Config(RunConfig):
    """``training.batch_size`` and ``micro_batch_size`` count tokens, as fairseq's ``--max-tokens`` on one GPU.

    A batch has as many sentence pairs as fit when all are padded to its longest sentence on either side.
    """

    model: EncoderDecoderConfig
    data: TranslationData
    reweight: Sites
    decoding: Decoding = field(default_factory=Decoding)

    def check(self, world: int) -> None:
        super().check(world)
        model = self.model
        self.data.check()
        self.decoding.check("decoding.")
        if model.dim % model.num_heads:
            raise UserError(f"model.dim={model.dim} is not a multiple of model.num_heads={model.num_heads}")
        if model.dim % 2:
            raise UserError(f"model.dim={model.dim} is not even, as sines and cosines need it")
        cross = self.reweight.cross
        if model.as_released and cross is not None and cross["name"] != "softmax":
            raise UserError(
                f"reweight.cross is {cross['name']}, but with model.as_released=true that attention is softmax"
            )

    def readers(self) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
        yield from super().readers()
        data = self.data
        yield "data.source=files", data.source == "files", ("data.root", "data.where")
        yield from self.unread("model", "max_length")
        yield "data.eval_split=validation", data.eval_split == "validation", ("decoding.validation_sentences",)

    def micro_batches(self, world: int) -> int:
        """Number of micro-batches, of about ``micro_batch_size`` tokens, for each of ``world`` processes.

        A batch of sentences can be divided into any number of parts, though not equal ones.
        """
        training = self.training
        return math.ceil(training.batch_size / (world * (training.micro_batch_size or training.batch_size)))


class Translation(Task):
    metric = "bleu"
    higher_is_better = True
    unit = "tokens"

    def __init__(self, config: Config):
        self.config: Config = config
        self.bitext = open_bitext(config.data)
        lowercase = self.bitext.recipe.lowercase
        self.bleu = CorpusBLEU(self.metric, "none", lowercase)
        self.sacrebleu = CorpusBLEU("sacrebleu", bleu_tokenizer(config.data.target_language), lowercase)
        if (
            config.model.share_embeddings == "all"
            and self.bitext.source_dictionary is not self.bitext.target_dictionary
        ):
            raise UserError(
                "model.share_embeddings=all needs one dictionary for both languages: data.joined_dictionary=true makes "
                "one of raw text"
            )
        for split, pairs in self.bitext.splits.items():
            longest = max(pairs.sources.lengths.max(initial=0), pairs.targets.lengths.max(initial=0))
            if longest > config.model.max_length:
                raise UserError(
                    f"a sentence of {split} has {longest} tokens, more than model.max_length={config.model.max_length}"
                )
        self.batches = TokenBatches(self.bitext.splits["train"], config.training.batch_size, config.seed)
        self.steps_per_epoch = self.batches.steps_per_epoch
        splits = ("train", config.data.eval_split, config.data.test_split)
        self.left_out = checked([self.batches.left_out, *self.bitext.left_out(splits)], config.data.max_left_out)
        self.positive = not reweight.get(config.reweight.output["name"]).can_be_zero

    def fingerprint(self) -> Fingerprint:
        data = self.config.data
        return self.bitext.fingerprint(("train", data.eval_split, data.test_split))

    def match(self, trained: Fingerprint) -> None:
        names = ["languages", "segmentation", "source vocabulary", "target vocabulary"]
        require_same(self.fingerprint(), trained, names)

    def build_model(self) -> EncoderDecoder:
        sites, bitext = self.config.reweight, self.bitext
        dictionaries = (bitext.source_dictionary, bitext.target_dictionary)
        attention = AttentionSites(*(site or sites.attention for site in (sites.encoder, sites.decoder, sites.cross)))
        model = self.config.model
        arguments: dict[str, Any] = {
            "config": model,
            "attention": attention,
            "output": sites.output,
            "source_tokens": len(bitext.source_dictionary),
            "target_tokens": len(bitext.target_dictionary),
            "fingerprint": torch.cat([dictionary.fingerprint() for dictionary in dictionaries]),
        }
        if has_target(model):
            return require("model", build("model", model, offered=arguments), EncoderDecoder)
        return EncoderDecoder(**arguments)

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[list[TranslationBatch]]:
        return self.batches.train_batches(
            start_step, rank=shard.rank, world=shard.world, micro_batches=shard.micro_batches
        )

    def weight(self, batch: TranslationBatch) -> int:
        return int((batch.targets != IGNORED).sum())

    def loss(self, model: nn.Module, batch: TranslationBatch, device: torch.device) -> Tensor:
        batch = batch.to(device)
        smoothing = self.config.training.label_smoothing
        return model(batch.source, batch.source_mask, batch.target, batch.targets, smoothing)

    def evaluate(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float]:
        split = self.config.data.eval_split
        translated = self.config.decoding.validation_sentences if split == "validation" else None
        return self.score(model, device, shard, split, translated)

    def look(self, model: nn.Module, device: torch.device) -> None:
        """Runs the model without translating: callers observe it under teacher forcing."""
        self.score(model, device, Shard(), self.config.data.eval_split, translated=0)

    def test(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float] | None:
        return self.score(model, device, shard, self.config.data.test_split)

    def score(
        self, model: nn.Module, device: torch.device, shard: Shard, split: str, translated: int | None = None
    ) -> dict[str, float]:
        """This process's part of a split's sums: of the loss, and of BLEU for the first ``translated`` pairs."""
        assert isinstance(model, EncoderDecoder)
        pairs = self.bitext.splits[split]
        count = len(pairs) if translated is None else min(translated, len(pairs))
        loss = torch.zeros((), dtype=torch.float64, device=device)
        tokens = 0
        translations: dict[int, list[int]] = {}
        batches = eval_batches(pairs, self.config.decoding.batch_tokens, rank=shard.rank, world=shard.world)
        for batch in batches:
            tokens += self.weight(batch)
            on_device = batch.to(device)
            loss += model(on_device.source, on_device.source_mask, on_device.target, on_device.targets)
            rows = batch.indices < count
            if rows.any():
                found = self.search(model, on_device.source[rows], on_device.source_mask[rows])
                translations.update(zip(batch.indices[rows].tolist(), found, strict=True))
        sums = {"loss": loss.item(), "tokens": float(tokens), "sentences": float(len(translations))}
        references = self.bitext.references(split)
        mine = sorted(translations)
        tokenized = [self.bitext.tokenized(translations[i]) for i in mine]
        sums |= self.bleu.sums(tokenized, [references.tokenized[i] for i in mine])
        if references.raw is not None:
            text = [self.bitext.detokenize(translations[i]) for i in mine]
            sums |= self.sacrebleu.sums(text, [references.raw[i] for i in mine])
        return sums

    def search(self, model: EncoderDecoder, source: Tensor, source_mask: Tensor) -> list[list[int]]:
        """Ids of the best translation of each row of source int64 [rows, S], by beam search."""
        found = decoding.translate(model, source, source_mask, self.config.decoding)
        return [hypotheses[0].tokens.tolist() for hypotheses in found]

    def encode(self, line: str, where: str = "a line", target: bool = False) -> Tensor:
        """Ids int64 [length] of a raw source (or target) line, END included.

        Raises UserError, saying ``where``, if it is longer than the model takes.
        """
        ids, limit = self.bitext.prepare(line, target), self.config.model.max_length
        if len(ids) > limit:
            raise UserError(
                f"{where} has {len(ids)} tokens, more than model.max_length={limit}: shorten or split it: "
                f"{shorten(line, 60)}"
            )
        return torch.tensor(ids)

    def translate(
        self, model: EncoderDecoder, device: torch.device, sources: Sequence[Tensor]
    ) -> list[list[tuple[float, str]]]:
        """For each of ``sources``, made by ``encode``, the scores and texts of its translations, best first.

        There are at most ``decoding.beam``; a line without words only has the empty line.
        """
        lengths = np.array([len(ids) for ids in sources])
        order = np.argsort(lengths, kind="stable")
        translations = [[(0.0, "")] for _ in sources]
        for indices in cut_by_tokens(order[lengths[order] > 1], lengths, self.config.decoding.batch_tokens):
            source = pad_sequence([sources[i] for i in indices], batch_first=True, padding_value=PAD).to(device)
            found = decoding.translate(model, source, source != PAD, self.config.decoding)
            for i, hypotheses in zip(indices, found, strict=True):
                translations[i] = [(h.score, self.bitext.detokenize(h.tokens.tolist())) for h in hypotheses]
        return translations

    def score_text(self, hypotheses: Sequence[str], split: str) -> dict[str, float]:
        """Metrics of a split's translations, given as text as people read it, one per line.

        They are tokenised again, not always as the model's own were, so ``bleu`` may differ slightly.
        """
        references, tokenizer = self.bitext.references(split), self.bitext.tokenizers[1]
        scores = {self.bleu: ([tokenizer.words(line) for line in hypotheses], references.tokenized)}
        if references.raw is not None:
            scores[self.sacrebleu] = (list(hypotheses), references.raw)
        metrics = {bleu.name: bleu.score(bleu.sums(*texts)) for bleu, texts in scores.items()}
        return metrics | {"sentences": float(len(hypotheses))}

    def few_pairs(self, device: torch.device) -> TranslationBatch:
        pairs = self.bitext.splits[self.config.data.eval_split]
        return collate(pairs, np.arange(min(8, len(pairs)))).to(device)

    def probe(self, model: nn.Module, device: torch.device) -> None:
        assert isinstance(model, EncoderDecoder)
        batch = self.few_pairs(device)
        model.decode(batch.target, model.encode(batch.source, batch.source_mask), batch.source_mask)

    def samples(self, model: nn.Module, device: torch.device) -> list[Sample]:
        assert isinstance(model, EncoderDecoder)
        batch = self.few_pairs(device)
        found = self.search(model, batch.source, batch.source_mask)
        references = self.bitext.references(self.config.data.eval_split).tokenized
        return [
            Sample(f"{self.bitext.tokenized(ids)}\n(reference: {references[index]})")
            for ids, index in zip(found, batch.indices.tolist(), strict=True)
        ]

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        tokens = sums["tokens"]
        metrics = {self.bleu.name: self.bleu.score(sums)}
        if self.sacrebleu.keys[0] in sums:
            metrics[self.sacrebleu.name] = self.sacrebleu.score(sums)
        loss = sums["loss"] / tokens
        if self.positive:
            metrics["ppl"] = math.exp(loss) if loss < 700 else math.inf
        return metrics | {"loss": loss, "tokens": tokens, "sentences": sums["sentences"]}

    def examples(self, step: int) -> list[int]:
        return self.batches.batch(step).tolist()

    def scored_left_out(self) -> list[LeftOut]:
        data = self.config.data
        return checked(self.bitext.left_out([data.eval_split], training=False), data.max_left_out)

    def signatures(self) -> dict[str, str]:
        return {bleu.name: bleu.signature() for bleu in (self.bleu, self.sacrebleu)}

    def summary(self) -> dict[str, Any]:
        bitext = self.bitext
        return {
            "signatures": self.signatures(),
            "vocabulary": {"source": len(bitext.source_dictionary), "target": len(bitext.target_dictionary)},
            "data": bitext.description,
            "preparation": bitext.preparation,
            "left_out": record(self.left_out),
        }


create = Translation
