"""``python -m multimax.suite.report serve RUNS``: the page of run folders as they are when it is loaded."""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from multimax.suite.errors import UserError
from multimax.suite.report.page.data import Shown, page_data, read_run
from multimax.suite.report.page.html import page
from multimax.suite.report.page.results_page import pictures_in
from multimax.suite.runs import Run

FILES = ("config.yaml", "metrics.jsonl", "summary.json", "starts.jsonl")
QUIET = 600  # seconds after which a run that writes nothing counts as stopped
TYPES = {".png": "image/png", ".svg": "image/svg+xml"}
LOCAL = ("localhost", "127.0.0.1")


class Runs:
    """Run folders: ``paths`` themselves, or the folders in them. Unchanged runs are not read again."""

    def __init__(self, paths: Sequence[Path]):
        self.paths = paths
        self.known: dict[Path, tuple[object, Shown]] = {}
        self.pictures: dict[str, Path] = {}  # by their place relative to the page

    def folders(self) -> list[Path]:
        """The run folders. Raises UserError if there are none."""
        found = []
        for path in self.paths:
            if not path.is_dir():
                raise UserError(f"{path} is not a folder: give run folders, or folders that contain some")
            is_run = (path / "config.yaml").is_file()
            found += [path] if is_run else sorted(config.parent for config in path.glob("*/config.yaml"))
        if not found:
            raise UserError(f"no runs in {', '.join(map(str, self.paths))}: a run folder has a config.yaml in it")
        return list({folder.resolve(): folder for folder in found}.values())

    def html(self) -> bytes:
        """The page as of now. Raises UserError if there are no runs."""
        runs, problems = [], []
        pictures: dict[str, Path] = {}
        for number, folder in enumerate(self.folders()):
            try:
                run = self.read(folder, f"pictures/{number}/")
            except (UserError, OSError, ValueError, KeyError, TypeError) as error:
                problems.append(f"{folder} could not be read: {' '.join(str(error).split())}")
                continue
            runs.append(run)
            places = [unquote(place) for _, place in run.pictures]
            pictures |= {place: folder / place.split("/", 2)[2] for place in places}
        self.pictures = pictures
        return page(page_data(runs, "Runs", f"Read from {', '.join(map(str, self.paths))}.", problems=problems))

    def read(self, folder: Path, place: str) -> Shown:
        signature = [(s.st_mtime_ns, s.st_size) for name in FILES if (s := stat(folder / name))]
        known = self.known.get(folder)
        if known is None or known[0] != signature:
            known = self.known[folder] = signature, read_run(Run(folder))
        run, pictures = known[1], pictures_in(folder, place)
        if run.summary:
            return replace(run, pictures=pictures)
        last = max(written for written, _ in signature) / 1e9
        status = "running" if time.time() - last < QUIET else "stopped"
        return replace(run, pictures=pictures, status=status, seconds_per_step=seconds_per_step(folder, run))


def stat(path: Path) -> os.stat_result | None:
    return path.stat() if path.exists() else None


def seconds_per_step(folder: Path, run: Shown) -> float | None:
    """Pace of an unfinished run, from its newest start to its newest line."""
    written, steps = stat(folder / "metrics.jsonl"), run.curves.step - run.start.get("step", 0)
    if written is None or steps <= 0 or not run.start:
        return None
    return max(0.0, written.st_mtime - datetime.fromisoformat(run.start["time"]).timestamp()) / steps or None


def server(runs: Runs, port: int) -> ThreadingHTTPServer:
    """A server, only for this machine, that makes a new page for each load. Raises UserError for a taken port."""
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), handler(runs))
    except OSError as error:
        raise UserError(f"port {port} cannot be used ({error.strerror}): choose another with --port") from None


def handler(runs: Runs) -> Callable[..., BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
            place = unquote(urlsplit(self.path).path).removeprefix("/")
            if host not in LOCAL:  # DNS rebinding: another site's name must not reach the runs
                self.answer(HTTPStatus.FORBIDDEN, "text/plain", b"this page is for localhost\n")
            elif place in ("", "index.html"):
                try:
                    self.answer(HTTPStatus.OK, "text/html; charset=utf-8", runs.html())
                except UserError as error:
                    self.answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error}\n".encode())
            elif (path := runs.pictures.get(place)) and path.is_file():
                self.answer(HTTPStatus.OK, TYPES[path.suffix], path.read_bytes())
            else:
                self.answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is no such page\n")

        def answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            if not kind.startswith("text/html"):  # the page carries its own policy; pictures get the strictest
                self.send_header("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            """The only client is the user's own browser: no access log."""

    return Handler


def serve(paths: Sequence[Path], port: int) -> None:
    """Serve until Ctrl-C. Raises UserError at once if there are no runs or the port is taken."""
    runs = Runs(paths)
    runs.html()
    with server(runs, port) as running:
        address = f"http://localhost:{running.server_port}/"
        print(f"{address}  (a reload reads the runs again; Ctrl-C ends it)", flush=True)
        try:
            running.serve_forever()
        except KeyboardInterrupt:
            print()
