"""logger=wandb: the run on Weights & Biases, or in ``RUN/wandb`` where there is no key or no network.

Each step of ``metrics.jsonl`` becomes one row of the run's history at the same W&B step, so that curves can be compared
by step. The server says up to which row it has the history, and is sent the rest of the file. Nothing is read back: the
run's files remain the source of truth.
"""

import hashlib
import html
import json
import shutil
import threading
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import wandb

from multimax.suite.config import Logger
from multimax.suite.engine.console import say
from multimax.suite.errors import UserError
from multimax.suite.identity import identity
from multimax.suite.loggers.mirror import Mirror, Outcome
from multimax.suite.runs import Run, Samples
from multimax.suite.waiting import waiting

CONNECT_SECONDS = 5  # the server has answered by then, or there is none
INIT_SECONDS = 30
FINISH_SECONDS = 15  # what is not uploaded by then is left to push-wandb


class WandbMirror(Mirror):
    """A run that is being trained here and now."""

    def __init__(self, run: Run):
        self.run = run

    def open(self) -> int:
        mode = self.run.config["logger"]["mode"]
        why_offline = {"auto": unavailable, "offline": lambda: "logger.mode=offline", "online": lambda: None}[mode]()
        if why_offline is None:
            try:
                with waiting("W&B to begin the run (logger.mode=offline does without its server)"):
                    self.remote = start(self.run, "online", self.run.path)
            except Exception as error:  # wandb's own exceptions have no common base
                if mode == "online":
                    raise
                why_offline = f"wandb.init: {str(error).splitlines()[0]}"
        if why_offline is None:
            say(f"W&B: {self.remote.url}")
        else:
            for older in (self.run.path / "wandb").glob("offline-run-*"):
                shutil.rmtree(older)  # the new one begins at step 1 again, and `wandb sync` of both would add them up
            self.remote = start(self.run, "offline", self.run.path)
            say(f"W&B: offline ({why_offline}); later: python -m multimax.suite.report push-wandb {self.run.path}")
        return self.remote.starting_step - 1

    def show(self, step: int, values: dict[str, Any], samples: Samples | None) -> None:
        send(self.remote, step, values, samples)

    def close(self, outcome: Outcome) -> None:
        finish(self.remote, self.run, outcome)


def push(run: Run) -> tuple[int, str]:
    """Bring the server's copy of a run up to its files; returns the number of steps sent and the run's address.

    A killed run may have written only part of what it logs at its last step, and W&B accepts no second row for a step:
    that step is left out until a checkpoint shows that it is complete.
    """
    rows = [(step, values) for step, values, _ in run.rows()]
    if rows and not run.finished and not (run.path / "checkpoints" / f"step-{rows[-1][0]:08d}").is_dir():
        rows.pop()
    with TemporaryDirectory(prefix="push-wandb-") as folder:
        remote = start(run, "online", Path(folder), live=False)
        fresh = [(step, values) for step, values in rows if step >= remote.starting_step]
        for step, values in fresh:
            send(remote, step, values, run.samples(step))
        url = str(remote.url)
        finish(remote, run, "finished")
    return len(fresh), url


def start(run: Run, mode: Literal["online", "offline"], folder: Path, live: bool = True) -> wandb.Run:
    """The run on W&B, begun or resumed. ``live``: it is being trained here, so that this machine is recorded too."""
    config = run.config
    options = {**asdict(Logger()), **config["logger"]}
    functions = [site["name"] for site in config["reweight"].values() if site]
    revision = (run.revision or "").split()
    return wandb.init(
        mode=mode,
        id=run_id(run),
        resume="allow",
        reinit="create_new",  # leaves alone a run that somebody else has open in this process
        project=options["project"],
        entity=options["entity"],
        group=options["group"] or run.experiment,
        job_type=config["task"],
        name=run.name,
        tags=[*dict.fromkeys(functions), config["scale"]],
        config={**config, "function": run.function, "revision": run.revision},
        dir=folder,
        settings=wandb.Settings(
            silent=True,  # one line of ours says where the run is
            console="off",
            disable_code=True,
            git_commit=revision[-1].removesuffix("-dirty") if revision else None,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS if live else 0,
            x_disable_stats=not live,
            x_disable_meta=not live,
            x_save_requirements=live,
        ),
    )


def run_id(run: Run) -> str:
    """Twelve hexadecimal digits: the same at every start of a run, others if the run is begun anew.

    Made from what determines the run's numbers and from the time of its first start.
    """
    starts = run.starts
    parts = [identity(run.config, run.task_module.Config), starts[0]["time"] if starts else None]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]


def send(remote: wandb.Run, step: int, values: dict[str, Any], samples: Samples | None) -> None:
    # Committed at once: wandb would otherwise wait for the next row to complete this one.
    remote.log({**values, **(media(samples) if samples else {})}, step=step, commit=True)


def finish(remote: wandb.Run, run: Run, outcome: Outcome) -> None:
    if run.finished:
        facts = {name: value for name, value in run.summary.items() if name != "metrics"}
        final = {f"final/{name}": value for name, value in run.final.items()}
        # Under one name whatever the task: a dashboard's table has no patterns.
        remote.summary.update({**final, "final/score": run.score, **facts})
    if outcome == "interrupted":
        remote.mark_preempting()  # W&B then shows it as to be continued, not as failed
    with waiting("W&B to take what is not sent yet"):
        remote.finish(exit_code=int(outcome != "finished"))


def media(samples: Samples) -> dict[str, Any]:
    """Samples as W&B's pictures and tables of text."""
    shown: dict[str, Any] = {}
    pictures = [wandb.Image(str(picture), caption=caption) for caption, picture in samples.rows if picture is not None]
    texts = [caption for caption, picture in samples.rows if picture is None]
    if pictures:
        shown["samples/pictures"] = pictures
    if texts:
        shown["samples/texts"] = wandb.Html("".join(f"<pre>{html.escape(text)}</pre><hr>" for text in texts))
    if samples.attention is not None:
        shown["samples/attention"] = wandb.Image(str(samples.attention))
    return shown


def unavailable() -> str | None:
    """Why W&B cannot be reached from here, determined within seconds; None if it can."""
    wandb.setup(wandb.Settings(silent=True))
    if (mode := wandb.setup().settings.mode) in ("offline", "disabled"):
        return f"WANDB_MODE={mode}"
    if not wandb.login(prompt=False, verify=False):
        return "no API key; wandb login stores one"
    url = wandb.setup().settings.base_url
    return None if answers(url) else f"no connection to {url}"


def answers(url: str) -> bool:
    """Whether there is anything at ``url``, through a proxy where one is set."""
    reached = threading.Event()

    def ask() -> None:
        try:
            urlopen(Request(url, method="HEAD"), timeout=CONNECT_SECONDS).close()
        except HTTPError:
            pass  # an answer too
        except OSError:
            return
        reached.set()

    # In a thread, because the time to resolve a name is not bounded.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()


def require_server() -> None:
    """Raise UserError unless W&B can be reached from here."""
    if why := unavailable():
        raise UserError(f"W&B: {why}")
