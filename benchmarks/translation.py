"""Speed and memory of the encoder-decoder beside fairseq's, in training and in beam search.

    python -m benchmarks.translation [--tokens 1024] [--beam-tokens 256] [--functions softmax multimax ...] [--quick]

Both have the same weights and see the same batches, and are checked to agree in loss and in
translations before they are timed. For softmax the other model is fairseq's own, for other
functions that of ``multimax.integrations.fairseq``. A training step is forward and backward with
label smoothing and dropout. The weights are random, so hypotheses run to the maximum length, which
is the same for both.
"""

from argparse import Namespace
from functools import partial
from typing import Any

import torch
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel, base_architecture
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from benchmarks.bench import Benchmark, program
from multimax import reweight
from multimax.integrations.fairseq.models import ReweightedTransformer
from multimax.suite.data.segments import IGNORED
from multimax.suite.data.token_batches import TranslationBatch
from multimax.suite.decoding import Search, translate
from multimax.suite.fairseq.weights import to_fairseq
from multimax.suite.models.encoder_decoder import END, PAD, AttentionSites, EncoderDecoder, EncoderDecoderConfig

SIZES = {
    "tiny": EncoderDecoderConfig(encoder_depth=1, decoder_depth=1, dim=16, ffn_dim=16),
    "paper": EncoderDecoderConfig(),
}
SMOOTHING, BEAM = 0.1, 5
LENGTHS = (6, 36)  # tokens per sentence in the first and the last batch


def fairseq_model(
    model: EncoderDecoder, config: EncoderDecoderConfig, site: str, output: str
) -> tuple[Any, Dictionary]:
    """fairseq's model with the weights of ``model``, and its dictionary."""
    dictionary = Dictionary()
    for i in range(len(model.target_embedding.weight) - len(dictionary)):
        dictionary.add_symbol(f"word{i}")
    sizes = {"embed_dim": config.dim, "ffn_embed_dim": config.ffn_dim, "attention_heads": config.num_heads}
    arguments = Namespace(
        encoder_layers=config.encoder_depth,
        decoder_layers=config.decoder_depth,
        **{f"{part}_{name}": value for part in ("encoder", "decoder") for name, value in sizes.items()},
        dropout=config.dropout,
        share_decoder_input_output_embed=True,
        max_source_positions=config.max_length,
        max_target_positions=config.max_length,
        reweight=site,
        reweight_output=output,
    )
    base_architecture(arguments)
    kind = TransformerModel if site == output == "softmax" else ReweightedTransformer
    theirs = kind.build_model(arguments, Namespace(source_dictionary=dictionary, target_dictionary=dictionary))
    theirs.load_state_dict(to_fairseq(model))
    return theirs, dictionary


def random_batch(max_tokens: int, num_tokens: int, length: int) -> TranslationBatch:
    """As many padded pairs of about ``length`` tokens as fit into ``max_tokens`` on each side."""
    rows = max(1, max_tokens // length)
    lengths = torch.randint(max(2, length - 3), length + 1, (2, rows))
    lengths[:, 0] = length
    words = torch.randint(4, num_tokens, (2, rows, length))
    places = torch.arange(length)
    words = words.where(places < lengths[..., None] - 1, PAD).where(places != lengths[..., None] - 1, END)
    source, targets = words
    target = torch.cat([torch.full((rows, 1), END), targets[:, :-1].where(targets[:, :-1] != END, PAD)], 1)
    return TranslationBatch(source, source != PAD, target, targets.where(targets != PAD, IGNORED), torch.arange(rows))


def fairseq_sample(batch: TranslationBatch) -> dict[str, Any]:
    """The same batch in fairseq's format, padded on the right like ours."""
    inputs = {"src_tokens": batch.source, "src_lengths": batch.source_mask.sum(1), "prev_output_tokens": batch.target}
    targets = batch.targets.where(batch.targets != IGNORED, PAD)
    return {"id": batch.indices, "net_input": inputs, "target": targets, "ntokens": int((targets != PAD).sum())}


class Ours:
    def __init__(self, model: EncoderDecoder, vocabulary: int, longest: int):
        self.model = model
        # fairseq's smoothing leaves out the target.
        self.smoothing = SMOOTHING * vocabulary / (vocabulary - 1)
        self.search = Search(BEAM, max_length_ratio=0, max_length_extra=longest)

    def loss(self, batch: TranslationBatch) -> Tensor:
        return self.model(batch.source, batch.source_mask, batch.target, batch.targets, self.smoothing)

    def translations(self, batch: TranslationBatch) -> list[list[int]]:
        found = translate(self.model, batch.source, batch.source_mask, self.search)
        return [hypotheses[0].tokens.tolist() for hypotheses in found]


class Fairseq:
    def __init__(self, model: Any, dictionary: Dictionary, longest: int, device: torch.device):
        self.model = model
        self.criterion = LabelSmoothedCrossEntropyCriterion(Namespace(target_dictionary=dictionary), False, SMOOTHING)
        self.generator = SequenceGenerator([model], dictionary, beam_size=BEAM, max_len_b=longest).to(device)

    def loss(self, batch: TranslationBatch) -> Tensor:
        return self.criterion(self.model, fairseq_sample(batch))[0]

    def translations(self, batch: TranslationBatch) -> list[list[int]]:
        found = self.generator.generate([self.model], fairseq_sample(batch))
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]


def compare(benchmark: Benchmark, name: str) -> None:
    """fairseq's model and ours with one function, in training and in beam search."""
    device, arguments = benchmark.device, benchmark.arguments
    size, vocabulary, longest, batches = ("tiny", 50, 3, 1) if benchmark.quick else ("paper", 8192, 30, 3)
    tokens, beam_tokens = (40, 40) if benchmark.quick else (arguments.tokens, arguments.beam_tokens)
    config = SIZES[size]
    site, output = {"name": name}, {"name": reweight.at_the_output(name)}
    torch.manual_seed(0)
    model = EncoderDecoder(config, AttentionSites(site, site, site), output, vocabulary, vocabulary)
    theirs, dictionary = fairseq_model(model, config, name, output["name"])
    sides: dict[str, Ours | Fairseq] = {"fairseq": Fairseq(theirs.to(device), dictionary, longest, device)}
    sides["ours"] = Ours(model.to(device), vocabulary, longest)
    lengths = torch.linspace(*LENGTHS, batches).int().tolist()  # from short sentences to long ones
    train = [random_batch(tokens, vocabulary, length).to(device) for length in lengths]
    test = [random_batch(beam_tokens, vocabulary, length).to(device) for length in lengths]

    def train_on_all(side: Ours | Fairseq) -> None:
        side.model.train()
        for batch in train:
            loss = side.loss(batch)
            side.model.zero_grad()
            loss.backward()

    def translate_all(side: Ours | Fairseq) -> list[list[int]]:
        side.model.eval()
        with torch.no_grad():
            return [tokens for batch in test for tokens in side.translations(batch)]

    for side in sides.values():
        side.model.eval()
    torch.testing.assert_close(*(side.loss(train[0]).detach() for side in sides.values()), rtol=1e-4, atol=0)
    found = [translate_all(side) for side in sides.values()]
    agreeing = sum(a == b for a, b in zip(*found, strict=True)) / len(found[0])
    if agreeing < 0.98:  # a tie may be broken either way
        raise SystemExit(f"error: {name}: only {agreeing:.0%} of the translations agree")
    names = [(name, way) for way in sides]
    count = sum(int((batch.targets != IGNORED).sum()) for batch in train)
    calls = [partial(train_on_all, side) for side in sides.values()]
    case = f"{size}, fp32"
    benchmark.measure("training", f"{case}, {count} tokens", "training step", names, calls, units=count)
    searches = [partial(translate_all, side) for side in sides.values()]
    sentences = len(found[0])
    benchmark.measure("beam search", f"{case}, {sentences} sentences", "forward", names, searches, units=sentences)


def run(benchmark: Benchmark) -> None:
    for name in benchmark.arguments.functions:
        compare(benchmark, name)


main = program(
    "translation",
    __doc__,
    run,
    tokens={"type": int, "default": 1024, "help": "of a training batch, one side"},
    beam_tokens={"type": int, "default": 256, "help": "of a batch to translate"},
)

if __name__ == "__main__":
    main()
