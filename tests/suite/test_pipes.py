"""Opening a pipe or a device in place of a file fails at once, in our code and in libraries."""

import gzip
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from multimax.suite.engine.checkpoint import sha256
from multimax.suite.pipes import refuse_pipes

WAYS = {
    "open": open,
    "write": lambda path: path.write_text("x"),
    "bytes": Path.read_bytes,
    "checksum": sha256,
    "torch": torch.load,
    "numpy": np.load,
    "memmap": lambda path: np.memmap(path, "r"),
    "gzip": gzip.open,
    "tar": tarfile.open,
    "omegaconf": OmegaConf.load,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("what", ["pipe", "device"])
def test_every_way_to_open_a_file_refuses_what_is_none(tmp_path, what, way):
    refuse_pipes()
    path = tmp_path / "file"
    os.mkfifo(path) if what == "pipe" else path.symlink_to("/dev/zero")
    with pytest.raises(OSError, match="it is a pipe or a device, not a file"):
        WAYS[way](path)


def test_a_shell_s_pipe_is_meant(tmp_path):
    code = "import sys; from multimax.suite.pipes import refuse_pipes; refuse_pipes(); print(open(sys.argv[1]).read())"
    command = f'"{sys.executable}" -c "{code}" <(echo content)'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "content"
