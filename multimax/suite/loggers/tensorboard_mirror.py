"""logger=tensorboard: event files in ``RUN/tensorboard``, rebuilt from the run's files at each start.

What an interrupted run had not yet flushed is then there as well, and every step is there once.
"""

import shutil
from typing import Any

import numpy
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from multimax.suite.loggers.mirror import Mirror, Outcome
from multimax.suite.runs import Run, Samples


class TensorBoardMirror(Mirror):
    def __init__(self, run: Run):
        self.run = run

    def open(self) -> int:
        folder = self.run.path / "tensorboard"
        shutil.rmtree(folder, ignore_errors=True)
        # A TensorBoard that is open drops with purge_step what it remembers of the old files.
        self.writer = SummaryWriter(str(folder), purge_step=0)
        return -1

    def show(self, step: int, values: dict[str, Any], samples: Samples | None) -> None:
        for name, value in values.items():
            if name != "step" and isinstance(value, int | float):
                self.writer.add_scalar(name, value, step)
        if samples is not None:
            for index, (caption, picture) in enumerate(samples.rows):
                self.writer.add_text(f"samples/{index}", caption, step)
                if picture is not None:
                    self.add_picture(f"samples/{index}", picture, step)
            if samples.attention is not None:
                self.add_picture("attention", samples.attention, step)
        self.writer.flush()

    def add_picture(self, name: str, path: Any, step: int) -> None:
        with Image.open(path) as image:
            self.writer.add_image(name, numpy.asarray(image.convert("RGB")), step, dataformats="HWC")

    def close(self, outcome: Outcome) -> None:
        self.writer.close()
