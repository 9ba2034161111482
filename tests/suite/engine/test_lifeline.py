"""The lifeline by itself: who has ended is noticed at once, and why is not lost."""

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time

from engine_runs import fork, wait

from multimax.suite.engine.lifeline import Lifeline


def shared(connection, wait=lambda: None):
    """Stands in for the sum over two processes: the first one sends, then waits; the other one receives."""

    def share(values):
        if values["port"] == 0:
            return connection.recv()
        connection.send(values)
        wait()
        return values

    return share


def test_a_killed_process_is_noticed_though_its_data_workers_live_on(tmp_path):
    ours, theirs = multiprocessing.Pipe()
    woke = tmp_path / "woke"

    def first():
        Lifeline(0, 2, "localhost", shared(ours))
        time.sleep(60)

    def second():
        Lifeline(1, 2, "localhost", shared(theirs))
        worker = os.fork()
        if not worker:
            if not os.fork():  # a worker's own child
                os._exit(0)
            time.sleep(30)
            woke.touch()
            os._exit(0)
        theirs.send(worker)
        time.sleep(60)

    children = [fork(first, tmp_path / "first"), fork(second, tmp_path / "second")]
    # What the first has sent is the second's to receive; what is left here is the worker's number.
    worker = ours.recv()
    os.kill(children[1], signal.SIGKILL)
    assert wait(children[1]) == -signal.SIGKILL
    assert wait(children[0]) == 1
    assert not woke.exists()
    os.kill(worker, signal.SIGKILL)
    assert "process 1 of 2 on" in (tmp_path / "first").read_text()
    assert "has ended without a word" in (tmp_path / "first").read_text()


def test_a_failure_before_the_first_process_has_looked_is_told_with_its_cause(tmp_path):
    """Greeting and farewell then arrive at once."""
    ours, theirs = multiprocessing.Pipe()

    def second():
        Lifeline(1, 2, "localhost", shared(theirs)).fail("photo.jpg cannot be read")

    def first():
        Lifeline(0, 2, "localhost", shared(ours, lambda: wait(fork(second, tmp_path / "second"))))
        time.sleep(60)

    assert wait(fork(first, tmp_path / "first")) == 1
    assert "failed: photo.jpg cannot be read" in (tmp_path / "first").read_text()


def test_a_process_that_failed_ends_even_where_its_interpreter_does_not():
    """As where the destructor of a GPU's library waits for the other processes: no thread of Python runs by then."""
    script = """
        import time
        from multimax.suite.engine import lifeline

        class Stuck:
            def __del__(self, sleep=time.sleep):
                sleep(30)

        stuck = Stuck()
        lifeline.LEAVE = 1
        lifeline.Lifeline(0, 1, "localhost", dict).fail("it is stuck")
    """
    assert subprocess.run([sys.executable, "-c", textwrap.dedent(script)]).returncode == -signal.SIGALRM
