"""Sweeps on a real Slurm of two nodes: with frozen code, preempted, out of time, and losing a node."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from toy import NODES, wait_for

from multimax.suite.files import read_lines
from multimax.suite.runs import Run

pytestmark = pytest.mark.xdist_group("cluster")  # one cluster, so one test process

# A user's function: softmax, but a step takes two seconds while the file named by HOLD exists, so that a run lasts
# until the test is done with it.
HELD = """
import os, time
from multimax import reweight

@reweight.register("held", can_be_zero=False)
def held(scores, mask=None):
    if os.path.exists(os.environ["HOLD"]):
        time.sleep(0.4)
    return reweight.softmax(scores, mask=mask)
"""

# The only checkpoints are those at a signal and at the end.
RUN = [
    "plugins=[held]",
    "reweight=held",
    "training.epochs=null",
    "training.steps=40",
    "training.batch_size=32",
    "training.log_every=1",
    "training.evaluate_every=1000",
]
NEVER = "training.checkpoint_every=1000"
ON_A_TOY = ["hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=1", "hydra.launcher.cpus_per_task=2"]


class Submitter:
    """A user on the login node."""

    def __init__(self, cluster, checkout: Path, folder: Path):
        self.cluster, self.checkout, self.folder = cluster, checkout, folder
        self.hold = folder / "hold"
        (folder / "held.py").write_text(HELD)

    def train(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, str(self.checkout / "train.py"), *arguments, *RUN],
            cwd=self.folder,
            env={**self.cluster.environment, "HOLD": str(self.hold), "PYTHONPATH": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def submit(self, *arguments: str) -> str:
        return self.train("-m", "hydra/launcher=slurm", *ON_A_TOY, *arguments)

    def run(self, seed: int = 0) -> Path:
        """Wait until the run of a seed has started, and return its folder."""
        wait_for("the run to start", lambda: any(self.folder.glob(f"runs/*-seed{seed}-*/starts.jsonl")))
        return next(self.folder.glob(f"runs/*-seed{seed}-*"))

    def wait_for_steps(self, run: Path, starts: int, steps: int) -> None:
        """Wait until the run has made ``steps`` steps since it started for the ``starts``-th time."""

        def far_enough() -> bool:
            begun = read_lines(run / "starts.jsonl")
            return len(begun) >= starts and trace(run)[-1:] >= [(begun[-1]["step"] + steps,)]

        wait_for(f"{run.name} to make {steps} steps", far_enough)

    def wait_for_start(self, run: Path, number: int) -> None:
        """Wait until the run has started for the ``number``-th time, without Slurm's delay after a requeue."""

        def started() -> bool:
            self.cluster.start_requeued()
            return len(starts(run)) >= number

        wait_for("the run to start again", started)

    def finish(self) -> None:
        """Let all runs finish, and wait for them."""
        self.hold.unlink(missing_ok=True)

        def over() -> bool:
            self.cluster.start_requeued()
            return not self.cluster.jobs()

        wait_for("the jobs to finish", over, 200)

    def logs(self) -> str:
        return "\n".join(
            f"{path}:\n{path.read_text()}" for path in sorted(self.folder.glob("runs/sweeps/*/jobs/*.out"))
        )


def trace(run: Path) -> list[tuple]:
    """The losses and gradient norms that a run logged, step by step."""
    return [
        (record["step"], *(value for name, value in sorted(record.items()) if name.endswith(("loss", "gradient_norm"))))
        for record in Run(run).metrics
    ]


def starts(run: Path) -> list[int]:
    return [start["step"] for start in read_lines(run / "starts.jsonl")]


@pytest.fixture
def submitter(cluster, checkout, tmp_path) -> Submitter:
    return Submitter(cluster, checkout, tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(cluster, checkout, tmp_path_factory) -> list[tuple]:
    """What the run with seed 0 logs if nothing interrupts it, in one process without Slurm."""
    submitter = Submitter(cluster, checkout, tmp_path_factory.mktemp("uninterrupted"))
    submitter.train()
    return trace(submitter.run())


def test_a_sweep_over_two_nodes_is_what_it_was_when_it_was_submitted(submitter, checkout, uninterrupted, tmp_path):
    said = submitter.submit("seed=0,1", "hydra.launcher.nodes=2", "+hydra.launcher.additional_parameters.hold=true")
    assert "2 run(s), each with 2 node(s) x 1 process(es)" in said
    jobs = submitter.cluster.jobs()
    assert len({job.split("_")[0] for job in jobs}) == 1, "one array"
    assert len(jobs) == 2

    modules = {path: path.read_text() for path in (tmp_path / "held.py", checkout / "multimax" / "__init__.py")}
    for module in modules:
        module.write_text("raise RuntimeError('this is not the code that was submitted')")
    for job in jobs:
        submitter.cluster.run("scontrol", "release", job)
    submitter.finish()
    for module, text in modules.items():
        module.write_text(text)

    assert (submitter.run() / "summary.json").is_file(), submitter.logs()
    assert "on 2 x cpu" in submitter.logs()
    for (step, *values), (expected_step, *expected) in zip(trace(submitter.run()), uninterrupted, strict=True):
        assert step == expected_step
        assert values == pytest.approx(expected, rel=1e-5)
    again = submitter.submit("seed=0,1", "hydra.launcher.nodes=2")
    assert "2 of 2 runs are finished already" in again
    assert not submitter.cluster.jobs()


def test_a_preempted_run_is_the_uninterrupted_one_and_the_sweep_s_other_run_goes_on(submitter, uninterrupted):
    cluster = submitter.cluster
    submitter.hold.touch()
    submitter.submit("seed=0,1", NEVER)
    run = submitter.run()
    for times in (1, 2):
        submitter.wait_for_steps(run, times, steps=2)
        place = dict(line.split() for line in cluster.run("squeue", "-rh", "--format=%i %N", "-t", "R").splitlines())
        job = next(job for job in place if job.endswith("_0"))
        more_important = cluster.occupy(place[job])
        wait_for("the preemption", lambda job=job: cluster.jobs().get(job) == "PENDING")
        cluster.run("scancel", more_important)
        submitter.wait_for_start(run, times + 1)
    submitter.finish()
    assert trace(run) == uninterrupted, submitter.logs()
    assert len(starts(run)) == 3
    assert 0 < starts(run)[1] < starts(run)[2]
    assert starts(submitter.run(seed=1)) == [0]
    assert (submitter.run(seed=1) / "summary.json").is_file()


def test_a_run_out_of_time_goes_on_where_it_was(submitter, uninterrupted):
    cluster = submitter.cluster
    submitter.hold.touch()
    submitter.submit(NEVER)
    run = submitter.run()
    submitter.wait_for_steps(run, 1, steps=2)
    (job,) = cluster.jobs()
    minutes = 2 + int(cluster.run("squeue", "-h", "--format=%M").split(":")[-2])
    # At most two minutes are left, and the warning is due 180 s before the limit.
    cluster.run("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    wait_for("the requeue", lambda: cluster.jobs().get(job) == "PENDING")
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=30")
    submitter.finish()
    assert f"job {job} is out of time: requeued" in submitter.logs()
    assert trace(run) == uninterrupted, submitter.logs()
    assert len(starts(run)) == 2
    assert starts(run)[1] >= 2


def test_srun_ends_a_run_one_of_whose_processes_is_killed_and_names_it(submitter):
    cluster = submitter.cluster
    submitter.hold.touch()
    submitter.submit("hydra.launcher.nodes=2", NEVER)
    submitter.wait_for_steps(submitter.run(), 1, steps=2)
    node = NODES[1]
    (task,) = (process for process in cluster.processes(node) if variable(process, "SLURM_PROCID") == "1")
    os.kill(task, signal.SIGKILL)
    wait_for("the other process to end", lambda: not cluster.jobs(), 60)
    assert f"srun: error: {node}: task 1: Killed" in submitter.logs()


def variable(process: int, name: str) -> str | None:
    """A variable in a task's environment; None for Slurm's own processes and for those that a task started."""
    command = Path(f"/proc/{process}/cmdline").read_text()
    if "submitit" not in command:
        return None
    pairs = (pair.partition("=") for pair in Path(f"/proc/{process}/environ").read_text().split("\0"))
    return next((value for key, _, value in pairs if key == name), None)


def test_a_run_whose_node_goes_away_goes_on_on_another(submitter, uninterrupted):
    cluster = submitter.cluster
    submitter.hold.touch()
    submitter.submit("training.checkpoint_every=1")
    run = submitter.run()
    submitter.wait_for_steps(run, 1, steps=3)
    node = cluster.run("squeue", "-h", "--format=%N")
    cluster.lose_node(node)
    try:
        wait_for("the requeue", lambda: [*cluster.jobs().values()] == ["PENDING"])
        submitter.wait_for_start(run, 2)
        assert cluster.run("squeue", "-h", "--format=%N") in {*NODES} - {node}
        submitter.finish()
    finally:
        cluster.start_node(node)
    assert trace(run) == uninterrupted, submitter.logs()
    assert starts(run)[1] >= 2
    assert json.loads((run / "summary.json").read_text())["steps"] == 40
