"""What ``--user-dir`` imports: it registers the models, the criterion and the optimiser with fairseq."""

from argparse import Namespace

import torch

from multimax.integrations.fairseq import models, training  # noqa: F401  they register themselves

# fairseq keeps a model's arguments in its checkpoints, and torch refuses to load a class that it was not told of.
# A Namespace holds values and runs no code, so that one class is allowed rather than the check given up.
torch.serialization.add_safe_globals([Namespace])
