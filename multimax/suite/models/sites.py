"""The parameters of a model's reweightings, by site."""

from torch import nn

from multimax.reweight import Reweighting


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Number of trainable parameters: ``total`` and, of these, the reweightings' in ``attention`` and ``output``.

    The output site is the submodule called ``output`` at the top of the model; every other reweighting is attention.
    """
    counts = {"total": sum(p.numel() for p in model.parameters() if p.requires_grad), "attention": 0, "output": 0}
    for name, module in model.named_modules():
        if isinstance(module, Reweighting):
            counts["output" if name == "output" else "attention"] += sum(p.numel() for p in module.parameters())
    return counts
