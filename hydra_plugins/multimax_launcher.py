"""Hydra's launchers ``slurm`` and ``local``: hydra-submitit-launcher's, for sweeps that are frozen at submission.

Its launcher composes a run's configuration in its job, from the files and the code as they are by then, and waits for
all jobs. These two first compose, check and freeze all runs (``multimax.suite.sweep``), leave out the finished ones,
and submit one Slurm array per kind of resources. Hydra finds launchers only in the package ``hydra_plugins``.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import MISSING

if find_spec("hydra_plugins.hydra_submitit_launcher"):  # else composition.py says what is missing
    from hydra_plugins.hydra_submitit_launcher.config import LocalQueueConf, SlurmQueueConf
    from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher

    @dataclass
    class Resources:
        """The resources of one run; the time is that of one job, of which a run may need several."""

        tasks_per_node: int
        timeout_min: int
        mem_gb: int
        cpus_per_task: int = MISSING

    @dataclass
    class SlurmConf(SlurmQueueConf):
        _target_: str = "hydra_plugins.multimax_launcher.SlurmLauncher"
        resources: dict[str, dict[str, Resources]] = field(default_factory=dict)  # by experiment or task, and scale
        srun_args: list[str] = field(default_factory=list)
        max_num_timeout: int = 1000  # counted by submitit, for time-outs before training has begun
        dry_run: bool = False  # print what would be submitted, and its cost

    @dataclass
    class LocalConf(LocalQueueConf):
        _target_: str = "hydra_plugins.multimax_launcher.LocalLauncher"
        parallel: int = 1  # runs at a time
        dry_run: bool = False

    class FrozenLauncher(BaseSubmititLauncher):
        """Composes and checks the runs, then hands those that are not finished to ``multimax.suite.sweep``."""

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            from multimax.suite import sweep

            runs, results = [], []
            for overrides in map(list, job_overrides):
                composed = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)
                swept = [override for override in overrides if not all(override in other for other in job_overrides)]
                runs.append(sweep.member(composed, overrides, " ".join(swept)))
            for run, metric in zip(runs, sweep.launch(self._EXECUTOR, runs), strict=True):
                results.append(JobReturn(overrides=run.overrides, cfg=run.composed, status=JobStatus.COMPLETED))
                results[-1].return_value = metric
            return results

    class SlurmLauncher(FrozenLauncher):
        _EXECUTOR = "slurm"

    class LocalLauncher(FrozenLauncher):
        _EXECUTOR = "local"

    for name, node in {"multimax_slurm": SlurmConf, "multimax_local": LocalConf}.items():
        ConfigStore.instance().store(name, node, group="hydra/launcher", provider="multimax")
