"""What ``--user-dir`` imports; it registers the models, the criterion and the optimiser with fairseq."""

from argparse import Namespace

import torch

from multimax.integrations.fairseq import models, training  # noqa: F401  they register themselves

# fairseq keeps a model's arguments in its checkpoints, and torch refuses to load classes it was not told about. A
# Namespace holds values and runs no code, so we allow this one class rather than give up the check.
torch.serialization.add_safe_globals([Namespace])
