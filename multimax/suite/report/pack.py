"""Pack the records of finished runs into one small file for somebody else, who adds them by ``merge``.

The file is JSON, gzipped: ``from``, a name or null, and ``runs``, each with the fields of ``RUN``. What is not in
``RUN`` is left out: the command, where data and runs are, the settings of loggers, and names of unreadable files.
"""

import copy
import gzip
import json
import re
import socket
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from getpass import getuser
from pathlib import Path
from typing import Any

from multimax.suite.engine.checkpoint import name_of, read_manifest
from multimax.suite.errors import UserError
from multimax.suite.files import write_atomic
from multimax.suite.report.records import PLACES, found_in, require_finished
from multimax.suite.runs import ANALYSES, SUMMARY, Run
from multimax.suite.shapes import NUMBER, check_shape, short

MOST, MOST_UNPACKED = 32 * 2**20, 256 * 2**20  # bytes

ENVIRONMENT = {
    "python": str,
    "torch": str,
    "machine": str,
    "cpu": str,
    "cpus": int,
    "threads": int,
    "gpu": (str, type(None)),
}
RUN: dict[str, Any] = {
    "config": dict,
    "summary": {key: shape for key, shape in SUMMARY.items() if key not in ("command", "plugins")}
    | {"environment": ENVIRONMENT},
    "metrics": [{...: NUMBER}],
    "data": {...: (str, list, dict)},
    "oversmoothing": ANALYSES["oversmoothing"]["measured"],
    "weights": (str, type(None)),
}
"""The fields of a packed run and their types; ``...`` stands for any name. ``weights`` is the SHA-256 of the last
checkpoint's, null where that has been deleted."""

LEFT_OUT = "command, paths of data and runs, logger, names of unreadable files, samples, checkpoints"
UNFIT = re.compile(r"\$\{|[<>|`]|[^\S \n]|[^\w\s]*\.\.[/\\]|(?:^|[\s=,'\"(])(?:~|[/\\]|[A-Za-z]:\\)\S")
"""What no text in a packed run may contain: interpolations, markup, paths."""
NAME = re.compile(r"[\w][\w .,'()@-]{0,79}")


def pack(runs: Sequence[Path], to: Path, name: str | None = None) -> None:
    """Write the records of ``runs`` to the file ``to``, from a contributor who may give a ``name``.

    Raises UserError for a run that is not finished, or whose text contains a path or the name of this user or machine.
    """
    check_name(name)
    packed = [packed_run(Run(path)) for path in runs]
    for path, run in zip(runs, packed, strict=True):
        check_private(str(path), run)
    write_atomic(to, gzip.compress(json.dumps({"from": name, "runs": packed}, allow_nan=False).encode(), mtime=0))


def packed_run(run: Run) -> dict[str, Any]:
    require_finished(run)
    summary, config = run.summary, copy.deepcopy(run.config)
    for section, key in found_in(config, (*PLACES, "logger", "data.where")):
        del section[key]
    checkpoint = run.checkpoints / name_of(summary["steps"])
    found = run.analysis("oversmoothing") or {"measured": []}
    result = {
        "config": config,
        "summary": {key: summary.get(key) for key in RUN["summary"]},
        "metrics": run.metrics,
        "data": run.data,
        "oversmoothing": found["measured"],
        "weights": weights_of(checkpoint) if checkpoint.is_dir() else None,
    }
    check_shape(result, RUN, str(run.path))
    return result


def weights_of(checkpoint: Path) -> str:
    """The SHA-256 of a checkpoint's weights. Raises UserError if its manifest is missing or damaged."""
    try:
        return read_manifest(checkpoint)["files"]["model.safetensors"]
    except ValueError as error:
        raise UserError(f"{checkpoint}: {error}: restore it, or remove this checkpoint's folder") from None


def unpack(path: Path) -> dict[str, Any]:
    """What ``pack`` wrote. Raises UserError for a file that is too large, damaged, or holds anything else."""
    try:
        if path.stat().st_size > MOST:
            raise UserError(f"{path} has more than {MOST >> 20} MiB: pack fewer runs into a file")
        with gzip.open(path) as file:
            content = file.read(MOST_UNPACKED + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error or 'it is cut short'}: ask for the file again") from None
    if len(content) > MOST_UNPACKED:
        raise UserError(f"{path} unpacks to more than {MOST_UNPACKED >> 20} MiB: pack fewer runs into a file")
    try:
        packed = json.loads(content, parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} holds no packed runs ({error}): ask for the file again") from None
    check_shape(packed, {"from": (str, type(None)), "runs": [RUN]}, str(path))
    check_name(packed["from"])
    for number, run in enumerate(packed["runs"]):
        check_texts(f"{path}: runs[{number}]", run)
    return packed


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def check_name(name: str | None) -> None:
    if name is not None and not NAME.fullmatch(name):
        raise UserError(f"--from {name!r}: a name has up to 80 letters, digits, spaces and .,'()@-")


def texts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text in nested values, names included, and where it is."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield where, key
            yield from texts(item, f"{where}.{key}" if where else key)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item, where)
    elif isinstance(value, str):
        yield where, value


def check_texts(where: str, run: dict[str, Any]) -> None:
    """Raise UserError for text that is a path, markup or an interpolation."""
    for key, text in texts(run):
        if UNFIT.search(text) or len(text) > 2000:
            raise UserError(f"{where}: {key} has {short(text)}: no path, markup or ${{...}} belongs in a packed run")


def check_private(where: str, run: dict[str, Any]) -> None:
    """Raise UserError for text that reveals the user or machine; the suite's own words are not searched."""
    check_texts(where, run)
    host, user, home = socket.gethostname(), "", ""
    with suppress(KeyError, OSError):  # a container's user may have neither a name nor a home
        user = getuser()
    with suppress(RuntimeError):
        home = str(Path.home())
    names = {user, host, host.partition(".")[0]} - {"", "root", "localhost"}
    told = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, names))})(?!\w)") if names else None
    free = {key: value for key, value in run["config"].items() if key not in ("task", "scale", "reweight")}
    for key, text in texts({"config": free, "environment": run["summary"]["environment"], "data": run["data"]}):
        if (told and told.search(text)) or (len(home) > 1 and home in text):
            raise UserError(f"{where}: {key} has {short(text)}, which names you or this machine: rename it")
