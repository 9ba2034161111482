"""logger=wandb: the run on Weights & Biases, or in ``RUN/wandb`` where there is no key or no network.

A step of ``metrics.jsonl`` is a row of the run's history at W&B's own step, so that curves compare by step and what was
trained and scored at one step stands together. The server says up to which row it has the history, and the rest of the
file follows. Nothing is read back, and the run's files stay the truth.
"""

import html
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
from multimax.suite.loggers.mirror import Mirror, Outcome
from multimax.suite.loggers.run_files import RunFiles, Samples

CONNECT_SECONDS = 5  # the server has answered by then, or there is none
INIT_SECONDS = 30
FINISH_SECONDS = 15  # what is not uploaded by then is left to push-wandb


class WandbMirror(Mirror):
    """A run that is being trained here and now."""

    def __init__(self, files: RunFiles):
        self.files = files

    def open(self) -> int:
        mode = self.files.config["logger"]["mode"]
        why_offline = {"auto": unavailable, "offline": lambda: "logger.mode=offline", "online": lambda: None}[mode]()
        if why_offline is None:
            try:
                self.run = start(self.files, "online", self.files.path)
            except Exception as error:  # wandb's own exceptions have no common base
                if mode == "online":
                    raise
                why_offline = f"wandb.init: {str(error).splitlines()[0]}"
        if why_offline is None:
            say(f"W&B: {self.run.url}")
        else:
            for older in (self.files.path / "wandb").glob("offline-run-*"):
                shutil.rmtree(older)  # the new one begins at step 1 again, and `wandb sync` of both would add them up
            self.run = start(self.files, "offline", self.files.path)
            say(f"W&B: offline ({why_offline}); later: python -m multimax.suite.report push-wandb {self.files.path}")
        return self.run.starting_step - 1

    def show(self, step: int, values: dict[str, Any], samples: Samples | None) -> None:
        send(self.run, step, values, samples)

    def close(self, outcome: Outcome) -> None:
        finish(self.run, self.files, outcome)


create = WandbMirror


def push(files: RunFiles) -> tuple[int, str]:
    """Bring the server's copy of a run up to its files; returns the number of steps sent and the run's address.

    A killed run may have written but half of what it logs at its last step, and W&B takes no second row for a step:
    that step is left out until a checkpoint says that it is whole.
    """
    rows = [(step, values) for step, values, _ in files.rows(0)]
    if rows and files.summary is None and not (files.path / "checkpoints" / f"step-{rows[-1][0]:08d}").is_dir():
        rows.pop()
    with TemporaryDirectory(prefix="push-wandb-") as folder:
        run = start(files, "online", Path(folder), live=False)
        fresh = [(step, values) for step, values in rows if step >= run.starting_step]
        for step, values in fresh:
            send(run, step, values, files.samples(step))
        url = str(run.url)
        finish(run, files, "finished")
    return len(fresh), url


def start(files: RunFiles, mode: Literal["online", "offline"], folder: Path, live: bool = True) -> wandb.Run:
    """The run on W&B, begun or resumed. ``live``: it is being trained here, so this machine is of interest as well."""
    config = files.config
    options = {**asdict(Logger()), **config["logger"]}
    functions = [site["name"] for site in config["reweight"].values() if site]
    revision = (files.revision or "").split()
    return wandb.init(
        mode=mode,
        id=files.id,
        resume="allow",
        reinit="create_new",  # leaves alone a run that somebody else has open in this process
        project=options["project"],
        entity=options["entity"],
        group=options["group"] or files.experiment,
        job_type=config["task"],
        name=files.name,
        tags=[*dict.fromkeys(functions), config["scale"]],
        config={**config, "function": files.function, "revision": files.revision},
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


def send(run: wandb.Run, step: int, values: dict[str, Any], samples: Samples | None) -> None:
    # Committed at once: wandb would otherwise wait for the next row to complete this one.
    run.log({**values, **(media(samples) if samples else {})}, step=step, commit=True)


def finish(run: wandb.Run, files: RunFiles, outcome: Outcome) -> None:
    if (summary := files.summary) is not None:
        metrics = summary.pop("metrics")
        final = {f"final/{name}": value for name, value in metrics.items()}
        # Under one name whatever the task: a dashboard's table has no patterns.
        run.summary.update({**final, "final/score": metrics[summary["metric"]], **summary})
    if outcome == "interrupted":
        run.mark_preempting()  # W&B then says that it is to be continued, not that it failed
    run.finish(exit_code=int(outcome != "finished"))


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
    """Why W&B cannot be reached from here, found out within seconds; None if it can."""
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

    # In a thread, because nothing bounds the time that the resolution of a name takes.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return reached.is_set()


def require_server() -> None:
    """Raise UserError unless W&B can be reached from here."""
    if why := unavailable():
        raise UserError(f"W&B: {why}")
