"""A W&B server on loopback for the calls of this project: runs, their histories, sweeps and agents, in memory.

It answers the GraphQL operations and the file stream of W&B's own client (0.31) by name, without knowing GraphQL: each
answer has all fields that a query may select.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import yaml

ENTITY, PROJECT = "someone", "project"
KEY = "0123456789" * 4


class StoredRun:
    """A run on the server."""

    def __init__(self, name: str, **fields: Any) -> None:
        self.name = name
        self.fields: dict[str, Any] = {"displayName": name, "group": "", "jobType": "", "tags": [], "sweepName": None}
        self.fields |= fields
        self.state = "running"
        self.config: dict[str, Any] = {}  # name ↦ {"value": …}
        self.summary: dict[str, Any] = {}
        self.history: list[dict[str, Any]] = []  # by line
        self.lines = {"wandb-events.jsonl": 0, "output.log": 0}

    def node(self) -> dict[str, Any]:
        """Every field that a query may request of a run."""
        own = self.config.get("_wandb", {}).get("value", {})
        tail = [json.dumps(row) for row in self.history[-1:]]
        content = {
            "id": f"storage-{self.name}",
            "name": self.name,
            "projectId": "1",
            "state": self.state,
            "config": json.dumps(self.config),
            "summaryMetrics": json.dumps(self.summary),
            "systemMetrics": "{}",
            "historyKeys": {"lastStep": self.history[-1]["_step"] if self.history else -1},
            "historyLineCount": len(self.history),
            "eventsLineCount": self.lines["wandb-events.jsonl"],
            "logLineCount": self.lines["output.log"],
            "historyTail": json.dumps(tail),
            "eventsTail": "[]",
            "wandbConfig": json.dumps(
                {"t": own["t"]} if "t" in own else {}
            ),  # by which the client knows that it has begun
            "createdAt": "2026-01-01T00:00:00Z",
            "heartbeatAt": "2026-01-01T00:00:00Z",
            "description": "",
            "notes": "",
            "commit": None,
            "readOnly": False,
            "user": {"name": ENTITY, "username": ENTITY},
            "project": {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}},
        }
        return content | self.fields


class WandbServer(ThreadingHTTPServer):
    """The server; as a context manager it listens on a free port of 127.0.0.1.

    Attributes:
        runs: id ↦ run.
        sweeps: id ↦ its configuration.
        left: sweep's id ↦ the values of the runs that no agent has got yet.
        unknown: operations that were asked for and that it does not know.
        received: what was posted or put, unpacked.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.lock = threading.Lock()
        self.runs: dict[str, StoredRun] = {}
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.left: dict[str, list[dict[str, Any]]] = {}
        self.sent: list[dict[str, Any]] = []  # commands to agents
        self.unknown: list[str] = []
        self.received: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The settings with which W&B's client uses this server."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": KEY, "WANDB_MODE": "online", "WANDB_ENTITY": ENTITY}

    def __enter__(self) -> WandbServer:
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that disconnect."""

    def answer(self, operation: str, query: str, given: dict[str, Any]) -> Any:
        """The data of one GraphQL operation."""
        project = given.get("project") or given.get("projectName") or given.get("modelName") or PROJECT
        if operation in ("Runs", "Run", "RunFullHistory") and (given["entity"], project) != (ENTITY, PROJECT):
            return {"project": None}
        method = getattr(self, f"on_{operation}", None)
        if method is None:
            self.unknown.append(operation)
            return {}
        return method(given)

    # Who asks, and what the server can do.

    def on_Viewer(self, given: dict[str, Any]) -> Any:
        viewer = {"id": "1", "entity": ENTITY, "username": ENTITY, "email": "", "flags": "{}", "admin": False}
        return {"viewer": viewer | {"name": ENTITY, "teams": {"edges": []}, "apiKeys": {"edges": []}}}

    def on_ServerFeaturesQuery(self, given: dict[str, Any]) -> Any:
        return {"serverInfo": {"features": []}}

    # Runs that are read.

    def on_Runs(self, given: dict[str, Any]) -> Any:
        wanted = json.loads(given.get("filters") or "{}")
        assert set(wanted) <= {"group"}, wanted
        names = [n for n, run in self.runs.items() if all(run.fields[k] == v for k, v in wanted.items())]
        first = names.index(given["cursor"]) + 1 if given.get("cursor") else 0
        page = names[first : first + given["perPage"]]
        edges = [{"node": self.runs[name].node(), "cursor": name} for name in page]
        info = {"hasNextPage": first + len(page) < len(names), "endCursor": page[-1] if page else None}
        runs = {"edges": edges, "pageInfo": info}
        return {"project": {"internalId": "1", "runCount": len(names), "readOnly": False, "runs": runs}}

    def on_Run(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        return {"project": {"run": run.node() if run else None}}

    def on_RunFullHistory(self, given: dict[str, Any]) -> Any:
        rows = self.runs[given["name"]].history
        some = rows[:: max(1, -(-len(rows) // given["samples"]))]
        return {"project": {"run": {"history": [json.dumps(row) for row in some]}}}

    # Runs that are written.

    def on_OrganizationCoreWeaveOrganizationID(self, given: dict[str, Any]) -> Any:
        return {"entity": {"organization": {"coreWeaveOrganizationId": None}}}

    def on_RunResumeStatus(self, given: dict[str, Any]) -> Any:
        run = self.runs.get(given["name"])
        return {
            "model": {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}, "bucket": run and run.node()}
        }

    def on_UpsertBucket(self, given: dict[str, Any]) -> Any:
        name = given.get("name") or given["id"].removeprefix("storage-")
        inserted = name not in self.runs
        run = self.runs.setdefault(name, StoredRun(name))
        run.state = "running"
        kept = {
            "displayName": "displayName",
            "groupName": "group",
            "jobType": "jobType",
            "tags": "tags",
            "sweep": "sweepName",
        }
        run.fields |= {ours: given[theirs] for theirs, ours in kept.items() if given.get(theirs)}
        if given.get("config"):
            run.config |= json.loads(given["config"])
        return {"upsertBucket": {"bucket": run.node(), "inserted": inserted}}

    def stream(self, name: str, body: dict[str, Any]) -> Any:
        """A part of a run's file stream."""
        run = self.runs[name]
        for file, part in (body.get("files") or {}).items():
            if file == "wandb-history.jsonl":
                run.history[part["offset"] :] = [json.loads(line) for line in part["content"]]
            elif file == "wandb-summary.json":
                run.summary = json.loads(part["content"][-1])
            elif file in run.lines:
                run.lines[file] = part["offset"] + len(part["content"])
        if body.get("complete"):
            run.state = "failed" if body.get("exitcode") else "finished"
        return {}

    def on_CreateRunFiles(self, given: dict[str, Any]) -> Any:
        files = [{"name": file, "uploadUrl": f"{self.url}/upload"} for file in given["files"]]
        return {"createRunFiles": {"runID": "1", "uploadHeaders": [], "files": files}}

    # Sweeps.

    def on_UpsertSweep(self, given: dict[str, Any]) -> Any:
        name = f"sweep{len(self.sweeps) + 1}"
        self.sweeps[name] = config = yaml.safe_load(given["config"])
        grid = {key: entry["values"] for key, entry in sorted(config["parameters"].items())}
        self.left[name] = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
        project = {"id": "1", "name": PROJECT, "entity": {"id": "1", "name": ENTITY}}
        return {"upsertSweep": {"sweep": {"name": name, "project": project}, "configValidationWarnings": []}}

    def on_SweepWithRuns(self, given: dict[str, Any]) -> Any:
        config = self.sweeps.get(given["sweep"])
        if config is None:
            return {"project": {"sweep": None}}
        text = yaml.safe_dump(config)
        return {"project": {"sweep": {"id": "1", "name": given["sweep"], "config": text, "runs": {"edges": []}}}}

    def on_CreateAgent(self, given: dict[str, Any]) -> Any:
        return {"createAgent": {"agent": {"id": given["sweep"]}}}

    def on_Heartbeat(self, given: dict[str, Any]) -> Any:
        sweep, busy = given["id"], json.loads(given["runState"])
        commands: list[dict[str, Any]] = []
        if not busy:
            commands = [{"type": "exit"}]
            if self.left[sweep]:
                values = self.left[sweep].pop(0)
                args = {key: {"value": value} for key, value in values.items()}
                run_id = f"agents{len(self.sent) + 1}"
                program = self.sweeps[sweep]["program"]
                commands = [{"type": "run", "run_id": run_id, "program": program, "args": args}]
                self.sent += commands
        return {"agentHeartbeat": {"agent": {"id": sweep}, "commands": json.dumps(commands)}}


class Handler(BaseHTTPRequestHandler):
    """The HTTP part of the server."""

    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *args: Any) -> None:
        pass

    def body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        content = gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content
        self.server.received.append(content)
        return content

    def do_POST(self) -> None:
        content = self.body()
        stream = re.fullmatch(r"/files/[^/]+/[^/]+/([^/]+)/file_stream", self.path)
        with self.server.lock:
            if self.path == "/graphql":
                request = json.loads(content)
                name = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
                operation = request.get("operationName") or (name[1] if name else "")
                self.reply({"data": self.server.answer(operation, request["query"], request.get("variables") or {})})
            elif stream:
                self.reply(self.server.stream(stream[1], json.loads(content)))
            else:
                self.reply({})

    def do_PUT(self) -> None:
        self.body()
        self.reply({})

    def do_GET(self) -> None:
        self.reply({})

    def reply(self, content: Any) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
