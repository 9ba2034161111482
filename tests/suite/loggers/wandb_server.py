"""The parts of a W&B server that its client needs, on the loopback: runs with history, configuration and files.

The server keeps what a client sends by W&B's own protocol: GraphQL and the file stream, whose chunks carry the number
of their first line. Like the real server, it tells a client that resumes a run what it already has.
"""

import gzip
import json
import re
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KEY = "0123456789abcdef" * 2 + "01234567"


@dataclass
class ServedRun:
    """A run as the server has it. ``history`` holds each row at the line that the client gave it."""

    facts: dict[str, Any]
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    exit_code: int | None = None

    @property
    def values(self) -> dict[str, Any]:
        """The configuration without W&B's wrapping."""
        return {key: entry["value"] for key, entry in self.config.items()}


class WandbServer:
    """A context manager; ``environment`` makes a client in this or another process talk to the server."""

    def __init__(self) -> None:
        self.runs: dict[str, ServedRun] = {}
        self.views: list[dict[str, Any]] = []
        self.dead = False  # if True, it accepts connections and never answers
        self.lock = threading.Lock()
        self.revived = threading.Event()
        self.http = QuietServer(("127.0.0.1", 0), type("Handler", (Handler,), {"server_of": self}))
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        self.environment = {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY}

    def __enter__(self) -> "WandbServer":
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.revived.set()
        self.http.shutdown()
        self.http.server_close()

    def graphql(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        answer = getattr(self, operation, None)
        return answer(variables) if answer else {}

    def Viewer(self, variables: dict[str, Any]) -> dict[str, Any]:
        return {"viewer": {"id": "1", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}}

    def RunResumeStatus(self, variables: dict[str, Any]) -> dict[str, Any]:
        run = self.runs.get(variables["name"])
        bucket = run and {
            "id": "1",
            "name": variables["name"],
            "summaryMetrics": json.dumps(run.summary),
            "displayName": run.facts["displayName"],
            "logLineCount": 0,
            "historyLineCount": len(run.history),
            "eventsLineCount": len(run.events),
            "historyTail": json.dumps([json.dumps(row) for row in run.history[-1:]]),
            "eventsTail": json.dumps([json.dumps(row) for row in run.events[-1:]]),
            "config": json.dumps(run.config),
            "tags": run.facts["tags"],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }
        return {
            "model": {"id": "1", "name": variables["project"], "entity": {"id": "1", "name": "me"}, "bucket": bucket}
        }

    def UpsertBucket(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        inserted = name not in self.runs
        run = self.runs.setdefault(name, ServedRun(facts={}))
        run.facts |= {key: value for key, value in variables.items() if value is not None or key not in run.facts}
        run.config |= json.loads(variables["config"] or "{}")
        run.summary |= json.loads(variables["summaryMetrics"] or "{}")
        project = {"id": "1", "name": run.facts["project"], "entity": {"id": "1", "name": "me"}}
        bucket = {
            "id": "1",
            "name": name,
            "displayName": run.facts["displayName"],
            "description": None,
            "config": json.dumps(run.config),
            "sweepName": None,
            "project": project,
            "historyLineCount": len(run.history),
        }
        return {"upsertBucket": {"bucket": bucket, "inserted": inserted}}

    def UpsertView2(self, variables: dict[str, Any]) -> dict[str, Any]:
        self.views.append(variables)
        return {"upsertView": {"view": {"id": "1", "name": variables["name"]}, "inserted": True}}

    def CreateRunFiles(self, variables: dict[str, Any]) -> dict[str, Any]:
        urls = [
            {"name": name, "uploadUrl": f"{self.url}/upload/{variables['run']}/{name}"} for name in variables["files"]
        ]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": urls}}

    def stream(self, name: str, body: dict[str, Any]) -> None:
        """Take a chunk of the file stream, which replaces the lines of a file from line ``offset`` on."""
        run = self.runs[name]
        for file, chunk in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if file == "wandb-history.jsonl":
                run.history[chunk["offset"] :] = lines
            elif file == "wandb-events.jsonl":
                run.events[chunk["offset"] :] = lines
            elif file == "wandb-summary.json":
                run.summary |= lines[-1]
        if body.get("complete") is not None:
            run.exit_code = body["exitcode"]


class QuietServer(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore connections that a killed client left open; report all other errors."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_of: WandbServer

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self) -> None:
        server, body = self.server_of, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        if server.dead:
            server.revived.wait()
            self.close_connection = True
            return
        content: dict[str, Any] = {}
        with server.lock:
            if self.path == "/graphql":
                asked = json.loads(body)
                operation = asked.get("operationName") or re.findall(r"(?:query|mutation)\s+(\w+)", asked["query"])[0]
                content = {"data": server.graphql(operation, asked.get("variables") or {})}
            elif self.path.endswith("/file_stream"):
                server.stream(self.path.split("/")[-2], json.loads(body))
            elif self.path.startswith("/upload/"):
                _, _, run, name = self.path.split("/", 3)
                server.runs[run].files[name] = body
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_HEAD = do_GET = do_POST = do_PUT = answer
