"""A data set of one's own: grey pictures of stripes in four directions."""

import numpy as np

from multimax.suite.data.image_sources import ArraySource

PHASES = np.add.outer(np.arange(8), np.arange(8)), np.subtract.outer(np.arange(8), np.arange(8))
PATTERNS = np.stack([np.indices((8, 8))[0], np.indices((8, 8))[1], *PHASES])  # what is constant along each direction
CLASSES = ["across", "down", "falling", "rising"]


def stripes(contrast: float, count: int = 512) -> tuple[ArraySource, ArraySource]:
    """``count`` pictures to train on and a quarter as many to validate on."""
    return pictures(count, contrast, seed=0), pictures(count // 4, contrast, seed=1)


def pictures(count: int, contrast: float, seed: int) -> ArraySource:
    random = np.random.default_rng(seed)
    labels = random.integers(len(CLASSES), size=count)
    waves = np.sin(PATTERNS[labels] * np.pi / 2 + random.uniform(0, 2 * np.pi, (count, 1, 1)))
    noise = random.normal(scale=0.25, size=waves.shape)
    pixels = ((0.5 + contrast * waves / 2 + noise) * 255).clip(0, 255).astype(np.uint8)
    return ArraySource(pixels, labels, [f"picture {i} of seed {seed}" for i in range(count)], CLASSES, mode="L")
