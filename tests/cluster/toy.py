"""A Slurm cluster of two nodes on one machine, kept in a folder of its own, that leaves nothing behind."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue")
NODES = ("n0", "n1")


def missing() -> str | None:
    """Why no cluster can be started here, or None if one can."""
    if absent := [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]:
        return f"no {', '.join(absent)} here: apt-get install slurm-wlm munge"
    if os.geteuid() != 0:
        return "slurmd and munged can only be started by root"
    return None


def search_path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(what: str, condition: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {seconds:.0f} s still waiting for {what}")
        time.sleep(0.2)


class ToyCluster:
    """``start()`` starts it; ``environment`` is what a command needs to talk to it."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="multimax-slurm-"))  # munge may not enter pytest's
        self.folder.chmod(0o755)
        self.conf = self.folder / "slurm.conf"
        self.environment = {**os.environ, "PATH": search_path(), "SLURM_CONF": str(self.conf), "OMP_NUM_THREADS": "1"}

    def start(self) -> None:
        munge = self.folder / "munge"
        munge.mkdir()
        (munge / "key").write_bytes(secrets.token_bytes(1024))
        (munge / "key").chmod(0o400)
        for path in (munge, munge / "key"):
            shutil.chown(path, "munge", "munge")
        options = {"socket": "socket", "key-file": "key", "log-file": "log", "pid-file": "pid", "seed-file": "seed"}
        self.run("runuser", "-u", "munge", "--", "munged", *(f"--{key}={munge / v}" for key, v in options.items()))
        self.conf.write_text(self.configuration(*free_ports(3)))
        (self.folder / "state").mkdir()
        self.run("slurmctld", "-i", "-f", str(self.conf))
        for node in NODES:
            self.start_node(node)
        wait_for("both nodes", lambda: all(self.node_state(node) == "IDLE" for node in NODES), 60)

    def configuration(self, controller_port: int, *node_ports: int) -> str:
        host, folder = socket.gethostname().split(".")[0], self.folder
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000"
            for node, port in zip(NODES, node_ports, strict=True)
        ]
        return "\n".join(
            [
                "ClusterName=toy",
                f"SlurmctldHost={host}(127.0.0.1)",
                f"SlurmctldPort={controller_port}",
                "SlurmUser=root",
                "AuthType=auth/munge",
                f"AuthInfo=socket={folder}/munge/socket",
                f"StateSaveLocation={folder}/state",
                f"SlurmdSpoolDir={folder}/%n",
                f"SlurmctldPidFile={folder}/slurmctld.pid",
                f"SlurmdPidFile={folder}/%n.pid",
                f"SlurmctldLogFile={folder}/slurmctld.log",
                f"SlurmdLogFile={folder}/%n.log",
                "SlurmdParameters=config_overrides",
                "ProctrackType=proctrack/pgid",
                "TaskPlugin=task/none",
                "SelectType=select/cons_tres",
                "SelectTypeParameters=CR_Core",
                "PreemptType=preempt/partition_prio",
                "PreemptMode=REQUEUE",
                "SchedulerParameters=bf_interval=1,sched_interval=2",
                "KillWait=20",
                "SlurmdTimeout=6",
                "MessageTimeout=5",
                "ReturnToService=2",
                "MpiDefault=none",
                "AccountingStorageType=accounting_storage/none",
                *nodes,
                "PartitionName=low Nodes=n0,n1 Default=YES PriorityTier=1 MaxTime=INFINITE",
                "PartitionName=high Nodes=n0,n1 PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE",
                "",
            ]
        )

    def run(self, *command: str) -> str:
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def start_node(self, node: str) -> None:
        self.run("slurmd", "-N", node, "-f", str(self.conf))

    def node_state(self, node: str) -> str:
        return self.run("sinfo", "--noheader", "--nodes", node, "--format=%T").split()[0].upper().rstrip("*~#")

    def lose_node(self, node: str) -> None:
        """Kill the daemon of ``node`` and everything that runs on it, as if its machine were lost."""
        os.kill(int((self.folder / f"{node}.pid").read_text()), signal.SIGKILL)
        for process in self.processes(node):
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def processes(self, node: str) -> list[int]:
        """The processes of the jobs on a node: tasks, what they started, and Slurm's own process above each."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                environment = (folder / "environ").read_bytes().split(b"\0")
                if {f"SLURM_CONF={self.conf}".encode(), f"SLURMD_NODENAME={node}".encode()} <= {*environment}:
                    found.append(int(folder.name))
                    parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                    if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                        found.append(parent)
            except (OSError, ValueError):  # it has ended in the meantime
                continue
        return sorted({*found})

    def jobs(self) -> dict[str, str]:
        """States of the jobs that are not over, by job id, or ARRAY_MEMBER for a member of an array."""
        lines = self.run("squeue", "--noheader", "--array", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def start_requeued(self) -> None:
        """Start requeued jobs at once: Slurm would make them wait for two minutes."""
        for job, state in self.jobs().items():
            if state == "PENDING":
                with suppress(RuntimeError):  # it has started in the meantime
                    self.run("scontrol", "update", f"JobId={job}", "StartTime=now")

    def occupy(self, node: str) -> str:
        """Take a whole node for a job of the higher-priority partition; return the job's id."""
        script = ["--parsable", "--partition=high", f"--nodelist={node}", "--exclusive", "--output=/dev/null"]
        return self.run("sbatch", *script, "--wrap", "sleep 1000")

    def stop(self) -> None:
        """End everything that belongs to the cluster and delete its folder."""
        try:
            for job in self.jobs():
                self.run("scancel", job)
            wait_for("the jobs to end", lambda: not any(self.processes(node) for node in NODES), 60)
            self.run("scontrol", "shutdown")
        except (RuntimeError, TimeoutError, subprocess.TimeoutExpired, FileNotFoundError):
            pass  # whatever is left is killed below
        for node in NODES:
            for process in self.processes(node):
                end(process)
        for file in ["slurmctld.pid", *(f"{node}.pid" for node in NODES), "munge/pid"]:
            if (self.folder / file).exists():
                end(int((self.folder / file).read_text()))
        shutil.rmtree(self.folder)


def end(process: int) -> None:
    """End a process, by force if it takes more than a few seconds."""
    for number in [signal.SIGTERM] * 20 + [signal.SIGKILL] * 5:
        try:
            os.kill(process, number)
        except ProcessLookupError:
            return
        time.sleep(0.2)
