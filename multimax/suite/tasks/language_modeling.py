"""Language modelling: Transformer-XL or transformer_lm on a text, scored by perplexity.

The name of a perplexity says what each token was predicted from: ``ppl@mem640`` from a segment and a memory of 640
(Transformer-XL), ``ppl@ctx400`` from at least 400 tokens (transformer_lm). An output function that gives exact zeros
has no perplexity. For it the metric is ``smoothed_ppl@...``, of the distribution with a hundredth of its mass spread
evenly over the vocabulary (the epsilon-perplexity of Martins et al., "Sparse Text Generation", EMNLP 2020, arXiv
2004.02644), and ``zero_targets`` is the percentage of tokens that had no mass before.

For characters and subwords there is also ``word_ppl@...``, the perplexity per word or end of line: the same log
likelihood divided by their number. It can compare models with different vocabularies, as long as none reads ``<unk>``.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from multimax import reweight
from multimax.suite.config import RunConfig
from multimax.suite.data.corpus import open_corpus
from multimax.suite.data.fingerprint import Fingerprint
from multimax.suite.data.left_out import LeftOut, checked, record
from multimax.suite.data.loading import rows
from multimax.suite.data.segments import Blocks, Streams, TextBatch, cut, eval_streams, eval_windows
from multimax.suite.data.text import TextData
from multimax.suite.decoding import Sampling, continue_text
from multimax.suite.errors import UserError
from multimax.suite.models.language_model import MODELS, LanguageModel, LanguageModelConfig
from multimax.suite.plugins import build, has_target, require
from multimax.suite.tasks.base import Sample, Shard, Task, require_same

SMOOTHING = 0.01
PROBED = 64  # tokens


@dataclass
class Config(RunConfig):
    model: LanguageModelConfig
    data: TextData

    def check(self, world: int) -> None:
        super().check(world)
        model, data = self.model, self.data
        if self.training.label_smoothing:
            raise UserError("training.label_smoothing: perplexity is of the words themselves; set it to 0")
        if has_target(model):
            if not self.recurrent:
                self.check_transformer_lm()
            return
        if model.dim % model.num_heads:
            raise UserError(f"model.dim={model.dim} is not a multiple of model.num_heads={model.num_heads}")
        if model.dim % 2:
            raise UserError(f"model.dim={model.dim} is not even, as sines and cosines need it")
        if data.unit == "subword" and data.vocabulary is not None:
            raise UserError("data.vocabulary is of words or characters; subwords are learnt from the training text")
        if self.recurrent:
            self.check_transformer_xl()
        else:
            self.check_transformer_lm()

    def readers(self) -> Iterator[tuple[str, bool, tuple[str, ...]]]:
        yield from super().readers()
        data, lengths = self.data, ("segment_length", "memory_length", "clamp_length", "same_length")
        of_memory = tuple(f"model.{prefix}{name}" for prefix in ("", "eval_") for name in lengths)[1:]
        hub = ("data.hub", "data.hub_config")
        yield "model=transformer_xl", self.recurrent, of_memory
        yield from self.unread("model", "eval_context", *(name.removeprefix("model.") for name in of_memory))
        yield "data.source=files", data.source == "files", ("data.root", "data.where", "data.text_column", *hub)
        yield "data.root=null", data.root is None, hub
        yield "data.unit=subword", data.unit == "subword", ("data.bpe_merges",)
        yield "data.vocabulary=null", data.vocabulary is None, ("data.max_tokens",)

    @property
    def recurrent(self) -> bool:
        """Whether the model goes through a text with a memory; a user's own model says so by ``memory_length``."""
        model = self.model
        return model.memory_length is not None if has_target(model) else model.name == "transformer_xl"

    def check_transformer_xl(self) -> None:
        model = self.model
        if model.memory_length is None or model.eval_memory_length is None or model.eval_segment_length is None:
            raise UserError(
                "model=transformer_xl needs model.memory_length, model.eval_memory_length and model.eval_segment_length"
            )
        if model.eval_context is not None:
            raise UserError("model.eval_context belongs to transformer_lm; transformer_xl has model.eval_memory_length")
        for same, length, prefix in (
            (model.same_length, model.memory_length, ""),
            (model.eval_same_length, model.eval_memory_length, "eval_"),
        ):
            if same and not length:
                raise UserError(f"model.{prefix}same_length=true needs a model.{prefix}memory_length above 0")
        if sorted({*model.cutoffs, 0}) != [0, *model.cutoffs]:
            raise UserError(f"model.cutoffs={model.cutoffs} must ascend from above 0")

    def check_transformer_lm(self) -> None:
        model = self.model
        if model.cutoffs or model.div_val != 1 or model.memory_length is not None:
            raise UserError(
                "model.cutoffs, model.div_val and model.memory_length belong to transformer_xl; transformer_lm has "
                "one softmax over all words and no memory"
            )
        if model.eval_context is None or not 0 <= model.eval_context < model.segment_length:
            raise UserError(
                f"model.eval_context={model.eval_context} must be from 0 to below model.segment_length="
                f"{model.segment_length}: a window holds the context and the tokens to score"
            )


class LanguageModeling(Task):
    higher_is_better = False
    unit = "tokens"

    def __init__(self, config: Config):
        self.config: Config = config
        model, batch_size = config.model, config.training.batch_size
        self.corpus = open_corpus(config.data)
        self.train_ids, self.eval_ids = self.corpus.splits["train"], self.corpus.splits[config.data.eval_split]
        # Published numbers are for this split; scored once, at the end.
        self.test_split = "test" if "test" in self.corpus.splits and config.data.eval_split != "test" else None
        self.used = [split for split in ("train", config.data.eval_split, self.test_split) if split]
        num_tokens = len(self.corpus.vocabulary)
        if model.cutoffs and model.cutoffs[-1] >= num_tokens:
            raise UserError(
                f"model.cutoffs={model.cutoffs} must stay below the {num_tokens} tokens of the vocabulary; "
                "model.cutoffs=[] turns the adaptive softmax off"
            )
        self.recurrent = config.recurrent
        self.segments: Streams | Blocks
        if self.recurrent:
            self.segments = Streams(len(self.train_ids), batch_size, model.segment_length)
            self.context = f"mem{model.eval_memory_length}"
        else:
            self.segments = Blocks(len(self.train_ids), batch_size, model.segment_length, config.seed)
            self.context = f"ctx{model.eval_context}"
        self.steps_per_epoch = self.segments.steps_per_epoch
        around = [self.corpus.beside] if self.corpus.beside else []
        found = [*around, self.segments.left_out, *self.corpus.left_out(self.used)]
        if config.data.held_out:
            apart = len(self.corpus.splits["validation"])
            reason = {"they are scored in the place of a validation text": apart}
            whole = len(self.train_ids) + apart
            found = [LeftOut("training tokens", whole, reason, "are held out", limited=False), *found]
        self.left_out = checked(found, config.data.max_left_out)
        self.positive = not reweight.get(config.reweight.output["name"]).can_be_zero
        self.metric = f"ppl@{self.context}" if self.positive else f"smoothed_ppl@{self.context}"
        self.memory: dict[int, Tensor | None] = {}  # each micro-batch's, by its first row

    def fingerprint(self) -> Fingerprint:
        return self.corpus.fingerprint(self.used)

    def match(self, trained: Fingerprint) -> None:
        require_same(self.fingerprint(), trained, ["unit", "vocabulary"])

    def build_model(self) -> LanguageModel:
        config, vocabulary = self.config, self.corpus.vocabulary
        arguments = {
            "config": config.model,
            "attention": config.reweight.attention,
            "output": config.reweight.output,
            "num_tokens": len(vocabulary),
            "fingerprint": vocabulary.fingerprint(),
        }
        if has_target(config.model):
            return require("model", build("model", config.model, offered=arguments), LanguageModel)
        return MODELS.find("model.name", config.model.name)(**arguments)

    def train_batches(self, start_step: int, shard: Shard) -> Iterator[list[TextBatch]]:
        parts = rows(self.config.training.batch_size, shard.rank, shard.world, shard.micro_batches)
        for step in itertools.count(start_step):
            starts, fresh = self.segments.starts(step), self.segments.fresh(step)
            yield [
                TextBatch(*cut(self.train_ids, starts[part.start : part.stop], self.segments.length), part.start, fresh)
                for part in parts
            ]

    def weight(self, batch: TextBatch) -> int:
        return batch.targets.numel()

    def loss(self, model: nn.Module, batch: TextBatch, device: torch.device) -> Tensor:
        batch = batch.to(device)
        memory = None if batch.fresh else self.memory.get(batch.first_row)
        if memory is not None:
            memory = memory.to(device)  # a memory from a checkpoint is on the CPU
        loss, memory = model(batch.tokens, batch.targets, memory)
        # Non-finite values are forgotten: such a step is skipped, and must not spoil later ones.
        self.memory[batch.first_row] = None if memory is None else memory.where(memory.isfinite(), 0)
        return loss

    def state(self) -> dict[str, Tensor]:
        """Transformer-XL's memory as [rows, depth, length, dim]."""
        memories = [memory for _, memory in sorted(self.memory.items()) if memory is not None]
        return {"memory": torch.cat(memories, 1).transpose(0, 1)} if memories else {}

    def load_state(self, state: dict[str, Tensor], shard: Shard) -> None:
        if not state:
            return
        memory = state["memory"].transpose(0, 1)
        parts = rows(self.config.training.batch_size, shard.rank, shard.world, shard.micro_batches)
        self.memory = {part.start: memory[:, part.start : part.stop].contiguous() for part in parts}

    def eval_batches(self, split: str, shard: Shard) -> Iterator[TextBatch]:
        ids, model, batch_size = self.corpus.splits[split], self.config.model, self.config.data.eval_batch_size
        if self.recurrent:
            assert model.eval_segment_length is not None
            return eval_streams(ids, batch_size, model.eval_segment_length, shard.rank, shard.world)
        assert model.eval_context is not None
        return eval_windows(ids, model.segment_length, model.eval_context, batch_size, shard.rank, shard.world)

    def evaluate(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float]:
        return self.score(self.config.data.eval_split, model, device, shard)

    def test(self, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float] | None:
        return None if self.test_split is None else self.score(self.test_split, model, device, shard)

    def score(self, split: str, model: nn.Module, device: torch.device, shard: Shard) -> dict[str, float]:
        """Sums over this process's part of a split."""
        assert isinstance(model, LanguageModel)
        sums = torch.zeros(4, dtype=torch.float64, device=device)
        memory: Tensor | None = None
        uniform = 1 / len(self.corpus.vocabulary)
        for batch in self.eval_batches(split, shard):
            tokens, targets, *_ = batch.to(device)
            hidden, memory = model.encode(tokens, memory if self.recurrent and not batch.fresh else None)
            scored = targets >= 0
            hidden, targets = hidden[scored], targets[scored]
            losses = model.losses(hidden, targets).double()
            smoothed, zeros = losses, losses.new_zeros(())
            if not self.positive:
                weights = model.target_weights(hidden, targets).double()
                smoothed = -((1 - SMOOTHING) * weights + SMOOTHING * uniform).log()
                zeros = (weights == 0).sum()
            sums += torch.stack([losses.sum(), smoothed.sum(), zeros, scored.sum()])
        found = dict(zip(("loss", "nll", "zeros", "tokens"), sums.tolist(), strict=True))
        found["words"] = float(self.corpus.words[split]) if shard.rank == 0 else 0.0
        return found | {"unigram_nll": found["tokens"] * math.log(self.corpus.unigram_perplexity(split))}

    def probe(self, model: nn.Module, device: torch.device) -> None:
        assert isinstance(model, LanguageModel)
        length = min(PROBED, self.config.model.segment_length, len(self.eval_ids) - 1)
        model.encode(torch.from_numpy(self.eval_ids[None, :length].astype("int64")).to(device))

    def samples(self, model: nn.Module, device: torch.device) -> list[Sample]:
        """The most probable continuation of the beginning of each of four parts of the text."""
        assert isinstance(model, LanguageModel)
        length = max(1, min(PROBED, self.config.model.segment_length, len(self.eval_ids)) // 2)
        starts = [i * max(0, len(self.eval_ids) - 2 * length) // 4 for i in range(4)]
        prompts = torch.stack([torch.from_numpy(self.eval_ids[i : i + length].astype("int64")) for i in starts])
        generator = torch.Generator(device).manual_seed(0)  # even certain outcomes are drawn
        continued = continue_text(model, prompts.to(device), length, Sampling(temperature=0.0), generator)
        decode = self.corpus.vocabulary.decode
        return [
            Sample(
                f"{decode(prompt)}\n-> {decode(found)}\n(it was: {decode(self.eval_ids[i + length : i + 2 * length])})"
            )
            for i, prompt, found in zip(starts, prompts.tolist(), continued.tolist(), strict=True)
        ]

    def metrics(self, sums: dict[str, float]) -> dict[str, float]:
        tokens = sums["tokens"]
        nll = sums["nll"] / tokens
        metrics = {
            self.metric: math.exp(nll) if nll < 700 else math.inf,
            "loss": sums["loss"] / tokens,
            "tokens": tokens,
            "unigram_ppl": math.exp(sums["unigram_nll"] / tokens),
        }
        if self.positive:
            metrics[f"bits_per_{self.config.data.unit}"] = nll / math.log(2)
        else:
            metrics["zero_targets"] = 100 * sums["zeros"] / tokens
        if self.config.data.unit != "word":
            by_word = sums["nll"] / sums["words"]
            metrics[f"word_{self.metric}"] = math.exp(by_word) if by_word < 700 else math.inf
        return metrics

    def examples(self, step: int) -> list[int]:
        return self.segments.starts(step)

    def scored_left_out(self) -> list[LeftOut]:
        return checked(self.corpus.left_out([self.config.data.eval_split]), self.config.data.max_left_out)

    def summary(self) -> dict[str, Any]:
        return {
            "vocabulary": len(self.corpus.vocabulary),
            "unknown_tokens": self.corpus.unknown,
            "left_out": record(self.left_out),
        }


create = LanguageModeling
