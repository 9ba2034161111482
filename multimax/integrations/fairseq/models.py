"""fairseq's transformer and transformer_lm with the registry's functions in every attention and at the output.

The models are fairseq's own, built by fairseq. With the same seed, all parameters except the functions' start from the
same numbers, with any function.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import dataclass, field
from typing import Any

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    ARCH_MODEL_INV_REGISTRY,
    BaseFairseqModel,
    register_model,
    register_model_architecture,
)
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer_lm import TransformerLanguageModel, TransformerLanguageModelConfig, base_lm_architecture
from fairseq.modules import MultiheadAttention
from torch import Tensor

from multimax import reweight
from multimax.integrations.fairseq.attention import ReweightedAttention
from multimax.integrations.fairseq.sites import FORM, read_site
from multimax.integrations.sites import create_site
from multimax.reweight import Reweighting

# An attribute and its value that mark our parameters for the optimiser; fairseq copies it with a parameter.
PARAMETER_GROUP = ("param_group", "reweight")


@dataclass
class LanguageModelSites(FairseqDataclass):
    """Command-line options; an option's help says what an empty value means."""

    reweight: str = field(
        default="multimax",
        metadata={"help": f"function in all attention and at the output ({', '.join(reweight.available())}): {FORM}"},
    )
    reweight_output: str = field(
        default="", metadata={"help": "at the output; default: that of --reweight, but softmax if that one has zeros"}
    )


@dataclass
class TranslationSites(LanguageModelSites):
    """The same, for a model with an encoder."""

    reweight_encoder: str = field(default="", metadata={"help": "in the encoder's attention; default: --reweight"})
    reweight_decoder: str = field(default="", metadata={"help": "in the decoder's self-attention; default: --reweight"})
    reweight_cross: str = field(default="", metadata={"help": "in cross-attention; default: --reweight"})


@dataclass
class ReweightedLanguageModelConfig(TransformerLanguageModelConfig, LanguageModelSites):
    """fairseq's options for transformer_lm, and ours."""


class ReweightedModel(BaseFairseqModel):
    """What both models share: ``output``, the reweighting of the logits, and the probabilities it gives."""

    output: Reweighting

    def install(self, arguments: Any) -> None:
        """Install the functions that ``arguments`` name in every attention and at the output.

        Raises ValueError for an unknown name or option, or a function that cannot be used at the output.
        """
        for name, module in self.named_modules():
            if isinstance(module, MultiheadAttention):
                part = "cross" if module.encoder_decoder_attention else name.split(".")[0]
                ReweightedAttention.install(module, read_site(arguments, part))
        site = read_site(arguments, "output")
        self.output = create_site(site)
        if not self.output.has_loss:
            raise ValueError(
                f"{site['name']} has no loss, since its weights {self.output.why_no_loss()}, and cannot stand at the "
                "output: set --reweight-output softmax"
            )
        if self.decoder.adaptive_softmax is not None and site["name"] != "softmax":
            raise ValueError("--adaptive-softmax-cutoff brings a softmax of its own: set --reweight-output softmax")
        for module in self.modules():
            if isinstance(module, Reweighting):
                for parameter in module.parameters():
                    setattr(parameter, *PARAMETER_GROUP)

    def get_normalized_probs(
        self, net_output: tuple[Tensor, Any], log_probs: bool, sample: dict[str, Tensor] | None = None
    ) -> Tensor:
        """Weights, or their logarithms, of the logits ``net_output[0]`` [..., tokens], in at least float32.

        The logarithm of a zero weight is that of the smallest normal number, since searches need finite ones.

        In training, raises ValueError for the logarithms of weights that may be zero, since they would go into a loss.
        """
        if self.decoder.adaptive_softmax is not None:
            return super().get_normalized_probs(net_output, log_probs, sample)
        scores = net_output[0].to(torch.promote_types(net_output[0].dtype, torch.float32))
        if not self.output.can_be_zero:
            logarithms = torch.log_softmax(self.output.log_weights(scores), -1)
            return logarithms if log_probs else logarithms.exp()
        if log_probs and self.training:
            raise ValueError(
                "the function at the output has zeros, which have no logarithm: set --criterion multimax_loss"
            )
        weights = self.output(scores)
        return weights.clamp(min=torch.finfo(weights.dtype).tiny).log() if log_probs else weights


@register_model("multimax_transformer")
class ReweightedTransformer(ReweightedModel, TransformerModel):
    """fairseq's encoder-decoder; its architectures have fairseq's names with the prefix ``multimax_``."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        super().add_args(parser)
        gen_parser_from_dataclass(parser, TranslationSites())

    @classmethod
    def build_model(cls, args: Namespace, task: Any) -> "ReweightedTransformer":
        model = super().build_model(args, task)
        model.install(args)
        return model


for architecture in list(ARCH_MODEL_INV_REGISTRY["transformer"]):
    register_model_architecture("multimax_transformer", f"multimax_{architecture}")(ARCH_CONFIG_REGISTRY[architecture])


@register_model("multimax_transformer_lm", dataclass=ReweightedLanguageModelConfig)
class ReweightedLanguageModel(ReweightedModel, TransformerLanguageModel):
    """fairseq's language model with norms before the layers, where ``--arch transformer_lm`` has them after."""

    @classmethod
    def build_model(cls, args: Any, task: Any) -> "ReweightedLanguageModel":
        base_lm_architecture(args)
        model = super().build_model(args, task)
        model.install(args)
        return model
