"""Worker processes end when their parent does, however it ends; a worker's death is reported."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multimax.suite.errors import UserError
from multimax.suite.processes import worker_processes

PARENT = """
import os, time
from multimax.suite.processes import worker_processes

if __name__ == "__main__":
    with worker_processes(1) as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        pool.submit(time.sleep, 600)
        time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_worker_ends_with_its_parent(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as parent:
        worker = int(parent.stdout.readline())
        assert is_running(worker)
        parent.kill()
        parent.wait()
        ends = time.monotonic() + 30
        while is_running(worker) and time.monotonic() < ends:
            time.sleep(0.05)
        assert not is_running(worker)


def test_a_worker_that_is_killed_is_told_in_a_line():
    with pytest.raises(UserError, match="was killed"), worker_processes(1) as pool:
        list(pool.map(os.kill, [pool.submit(os.getpid).result()], [signal.SIGKILL]))
