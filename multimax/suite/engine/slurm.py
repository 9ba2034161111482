"""Requeueing a Slurm job that is out of time."""

import os
import subprocess

from multimax.suite.engine.console import say


def requeue() -> bool:
    """Put the Slurm job of this process back into the queue; False if there is none or Slurm refuses.

    Slurm does so by itself after a preemption or the loss of a node; a job that runs out of time has to ask. Requeueing
    ends the job with all its processes; of a job array, only this member.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return False
    if "SLURM_ARRAY_JOB_ID" in os.environ:  # one member's plain number may be that of the whole array
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        reason = getattr(error, "stderr", None) or error
        say(f"job {job} is out of time and cannot be requeued ({str(reason).strip()}): submit it again")
        return False
    say(f"job {job} is out of time: requeued")
    return True
