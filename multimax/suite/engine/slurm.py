"""Requeueing a Slurm job that has run out of time."""

import os
import subprocess

from multimax.suite.engine.console import say


def requeue() -> bool:
    """Put this process's Slurm job back in the queue; False if there is none or Slurm refuses.

    Slurm does this by itself after a preemption or the loss of a node; a job that runs out of time has to ask.
    Requeueing ends the job with all its processes; in a job array, only this member.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # a member's plain number may stand for the whole array
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        say(f"job {job} is out of time and cannot be requeued ({str(reason).strip()}): submit it again")
        return False
    say(f"job {job} is out of time: requeued")
    return True
