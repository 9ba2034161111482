"""What training in fairseq needs: the functions' own losses, and an Adam that does not decay their parameters."""

from dataclasses import dataclass
from typing import Any

import torch
from fairseq import utils
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import register_optimizer
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig
from omegaconf import II
from torch import Tensor, nn

from multimax.integrations.fairseq.models import PARAMETER_GROUP


@dataclass
class ReweightedLossConfig(FairseqDataclass):
    label_smoothing: float = 0.0
    sentence_avg: bool = II("optimization.sentence_avg")


@register_criterion("multimax_loss", dataclass=ReweightedLossConfig)
class ReweightedLoss(LabelSmoothedCrossEntropyCriterion):
    """The output function's loss. For softmax it is fairseq's ``label_smoothed_cross_entropy``.

    The logged ``nll_loss`` is -log of the target's weight, which is large but finite if the weight is zero.
    """

    def __init__(self, task: Any, sentence_avg: bool, label_smoothing: float):
        super().__init__(task, sentence_avg, label_smoothing)

    def compute_loss(self, model: Any, net_output: Any, sample: Any, reduce: bool = True) -> tuple[Tensor, Tensor]:
        scores = net_output[0].flatten(0, -2)
        targets = model.get_targets(sample, net_output).flatten()
        if self.eps and not model.output.soft_targets:
            raise ValueError("the function at the output takes no label smoothing: set --label-smoothing 0")
        # fairseq spreads the mass over all classes but the target, our losses over all of them.
        smoothing = self.eps * scores.shape[-1] / (scores.shape[-1] - 1)
        reduction = "sum" if reduce else "none"
        loss = model.output.loss(
            scores, targets, label_smoothing=smoothing, reduction=reduction, ignore_index=self.padding_idx
        )
        with torch.no_grad():
            weights = model.get_normalized_probs(net_output, log_probs=False).flatten(0, -2)
            weights = weights.gather(-1, targets[:, None]).squeeze(-1)
            nll = -weights.clamp(min=torch.finfo(weights.dtype).tiny).log().where(targets != self.padding_idx, 0)
        return loss, nll.sum() if reduce else nll


@register_optimizer("multimax_adam", dataclass=FairseqAdamConfig)
class ReweightedAdam(FairseqAdam):
    """fairseq's Adam, except that ``--weight-decay`` skips the functions' parameters, as in MultiMax's paper.

    ``--clip-norm`` clips them by their own norm: parameters on the logits of V tokens sum V gradients, and with a
    common norm they would shrink the step of all others. With ``--fp16`` and ``--bf16`` the norm is common whatever the
    optimiser, since fairseq scales the whole gradient by one factor; with ``--amp`` it is not.

    Raises ValueError if fp16 training has flattened all parameters into one.
    """

    def __init__(self, cfg: FairseqAdamConfig, params: list[nn.Parameter]):
        params = list(params)
        if all(p.dim() == 1 for p in params):
            raise ValueError("--optimizer multimax_adam has to tell parameters apart: add --fp16-no-flatten-grads")
        attribute, group = PARAMETER_GROUP
        own = [p for p in params if getattr(p, attribute, None) == group]
        others = [p for p in params if getattr(p, attribute, None) != group]
        groups: list[dict[str, Any]] = [{"params": others}]
        if own:
            groups.append({"params": own, "weight_decay": 0.0})
        super().__init__(cfg, groups)

    def clip_grad_norm(self, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
        """The norm of the whole gradient before clipping."""
        norms = [utils.clip_grad_norm_(group["params"], max_norm, aggregate_norm_fn) for group in self.param_groups]
        return torch.stack(norms).norm()
