"""Speed and memory of the encoder-decoder beside fairseq's, in training and in beam search.

    python -m benchmarks.translation [--size paper] [--device cuda] [--functions softmax multimax ...] [--quick]

Both have the same weights and see the same batches, and are checked to agree in loss and in translations before they
are timed. For softmax the other model is fairseq's own, for other functions that of ``multimax.integrations.fairseq``.
A training step is forward and backward with label smoothing and dropout. The weights are random, so that hypotheses run
to the greatest length, which is the same for both.
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

from benchmarks.bench import Benchmark, parser
from multimax import reweight
from multimax.integrations.fairseq.models import ReweightedTransformer
from multimax.suite.data.segments import IGNORED
from multimax.suite.data.token_batches import TranslationBatch
from multimax.suite.decoding import Search, translate
from multimax.suite.fairseq.weights import to_fairseq
from multimax.suite.models.encoder_decoder import END, PAD, AttentionSites, EncoderDecoder, EncoderDecoderConfig

SIZES = {
    "tiny": EncoderDecoderConfig(encoder_depth=1, decoder_depth=1, dim=16, ffn_dim=16),
    "small": EncoderDecoderConfig(encoder_depth=3, decoder_depth=3, dim=256, ffn_dim=512),
    "paper": EncoderDecoderConfig(),
}
SMOOTHING = 0.1
LENGTHS = (6, 36)  # of the sentences, both included


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
    """As many padded pairs of about ``length`` tokens as fit ``max_tokens`` tokens on each side."""
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
    """The same batch, padded on the right as ours is."""
    inputs = {
        "src_tokens": batch.source,
        "src_lengths": batch.source_mask.sum(1),
        "prev_output_tokens": batch.target,
    }
    targets = batch.targets.where(batch.targets != IGNORED, PAD)
    return {"id": batch.indices, "net_input": inputs, "target": targets, "ntokens": int((targets != PAD).sum())}


class Ours:
    def __init__(self, model: EncoderDecoder, arguments: Namespace):
        self.model = model
        self.smoothing = SMOOTHING * arguments.vocabulary / (arguments.vocabulary - 1)  # fairseq's spares the target
        self.search = Search(arguments.beam, max_length_ratio=0, max_length_extra=arguments.beam_length)

    def loss(self, batch: TranslationBatch) -> Tensor:
        return self.model(batch.source, batch.source_mask, batch.target, batch.targets, self.smoothing)

    def translations(self, batch: TranslationBatch) -> list[list[int]]:
        found = translate(self.model, batch.source, batch.source_mask, self.search)
        return [hypotheses[0].tokens.tolist() for hypotheses in found]


class Fairseq:
    def __init__(self, model: Any, dictionary: Dictionary, arguments: Namespace):
        self.model = model
        self.criterion = LabelSmoothedCrossEntropyCriterion(Namespace(target_dictionary=dictionary), False, SMOOTHING)
        self.generator = SequenceGenerator(
            [model], dictionary, beam_size=arguments.beam, max_len_b=arguments.beam_length
        ).to(arguments.device)

    def loss(self, batch: TranslationBatch) -> Tensor:
        return self.criterion(self.model, fairseq_sample(batch))[0]

    def translations(self, batch: TranslationBatch) -> list[list[int]]:
        found = self.generator.generate([self.model], fairseq_sample(batch))
        return [hypotheses[0]["tokens"].tolist() for hypotheses in found]


def run(benchmark: Benchmark, name: str) -> None:
    """Fairseq's model and ours with one function, in training and in beam search."""
    device, arguments = benchmark.device, benchmark.arguments
    config = SIZES[arguments.size]
    site, output = {"name": name}, {"name": reweight.at_the_output(name)}
    torch.manual_seed(0)
    model = EncoderDecoder(config, AttentionSites(site, site, site), output, arguments.vocabulary, arguments.vocabulary)
    theirs, dictionary = fairseq_model(model, config, name, output["name"])
    sides: dict[str, Ours | Fairseq] = {"fairseq": Fairseq(theirs.to(device), dictionary, arguments)}
    sides["ours"] = Ours(model.to(device), arguments)
    lengths = torch.linspace(*LENGTHS, arguments.batches).int().tolist()
    train = [random_batch(arguments.tokens, arguments.vocabulary, length).to(device) for length in lengths]
    test = [random_batch(arguments.beam_tokens, arguments.vocabulary, length).to(device) for length in lengths]
    autocast = partial(torch.autocast, device.type, torch.bfloat16, enabled=arguments.bf16)

    def train_on_all(side: Ours | Fairseq) -> None:
        side.model.train()
        for batch in train:
            with autocast():
                loss = side.loss(batch)
            side.model.zero_grad()
            loss.backward()

    def translate_all(side: Ours | Fairseq) -> list[list[int]]:
        side.model.eval()
        with torch.no_grad(), autocast():
            return [tokens for batch in test for tokens in side.translations(batch)]

    for side in sides.values():
        side.model.eval()
    torch.testing.assert_close(*(side.loss(train[0]).detach() for side in sides.values()), rtol=1e-4, atol=0)
    found = [translate_all(side) for side in sides.values()]
    agreeing = sum(a == b for a, b in zip(*found, strict=True)) / len(found[0])
    if agreeing < (0.5 if arguments.bf16 else 0.98):  # a tie may be broken either way
        raise SystemExit(f"error: {name}: only {agreeing:.0%} of the translations agree")
    names = [(name, way) for way in sides]
    tokens = sum(int((batch.targets != IGNORED).sum()) for batch in train)
    calls = [partial(train_on_all, side) for side in sides.values()]
    case = f"{arguments.size}, {'bf16' if arguments.bf16 else 'fp32'}"
    benchmark.measure("training", f"{case}, {tokens} tokens", "training step", names, calls, units=tokens)
    searches = [partial(translate_all, side) for side in sides.values()]
    sentences = len(found[0])
    benchmark.measure("beam search", f"{case}, {sentences} sentences", "forward", names, searches, units=sentences)


def main() -> None:
    on_gpu = torch.cuda.is_available()
    options = parser(__doc__)
    options.add_argument("--size", choices=SIZES, default="paper" if on_gpu else "small")
    options.add_argument("--bf16", action="store_true", help="both under autocast")
    options.add_argument("--vocabulary", type=int, default=8192)
    options.add_argument("--tokens", type=int, default=4096 if on_gpu else 1024, help="of a training batch, one side")
    options.add_argument("--beam-tokens", type=int, default=4096 if on_gpu else 256, help="of a batch to translate")
    options.add_argument("--batches", type=int, default=3, help="of each kind, from short sentences to long ones")
    options.add_argument("--beam", type=int, default=5)
    options.add_argument("--beam-length", type=int, default=30, help="tokens of the longest hypothesis")
    arguments = options.parse_args()
    if arguments.quick:
        tiny = {"size": "tiny", "vocabulary": 50, "tokens": 40, "beam_tokens": 40, "batches": 1, "beam_length": 3}
        vars(arguments).update(tiny)
    benchmark = Benchmark("translation", arguments)
    for name in arguments.functions:
        run(benchmark, name)
    benchmark.save()


if __name__ == "__main__":
    main()
