"""An MCP server that behaves, or misbehaves, as its command line says; it needs Python and nothing else.

    python tests/fakes/mcp_server.py [--name fake] [--hang-in-initialize] [--exit STATUS] [--stay] [--child SECONDS]
        [--junk] [--pages]

    --stay      ignores the end of its stdin, and SIGTERM
    --child     starts a program of its own, which ignores both, too
    --junk      prints lines that are no messages
    --pages     gives its tools out one by one

    --http [--token T]   serves streamable HTTP at /mcp and SSE at /sse, and prints its address; /forget ends sessions

Its tools: echo, wait, count (of `wait`s that were cancelled), progress, fail, refuse, crash, big, picture, environment,
deafen (from then on it answers nothing), grow.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Json = dict[str, Any]
Send = Callable[[Json], None]
ANY: Json = {"type": "object", "properties": {}}


def takes(**types: str) -> Json:
    return {"type": "object", "properties": {name: {"type": type_} for name, type_ in types.items()}}


class Call:
    """A tool's call, and the way back."""

    def __init__(self, id_: object, params: Json, send: Send) -> None:
        self.id = id_
        self.name: str = params["name"]
        self.arguments: Json = params.get("arguments") or {}
        self.token: object = (params.get("_meta") or {}).get("progressToken")
        self.send = send

    def say(self, *content: Json, is_error: bool = False) -> None:
        self.send({"jsonrpc": "2.0", "id": self.id, "result": {"content": list(content), "isError": is_error}})

    def text(self, words: str, *, is_error: bool = False) -> None:
        self.say({"type": "text", "text": words}, is_error=is_error)


class Fake:
    """What it does, whatever carries the messages."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.waits: dict[object, threading.Event] = {}
        self.cancelled = 0
        self.is_deaf = False

        self.answers: dict[str, Callable[[Json], Json | None]] = {
            "initialize": self._initialize,
            "ping": lambda _: {},
            "tools/list": self._list,
            "resources/list": lambda _: {"resources": [{"uri": "memo://one", "name": "one", "description": "A memo"}]},
            "resources/read": self._read,
            "prompts/list": lambda _: {"prompts": [{"name": "greet", "description": "Say hello"}]},
        }
        self.tools: dict[str, tuple[Json, Callable[[Call], None]]] = {
            "echo": (takes(text="string"), lambda call: call.text(f"{options.name}: {call.arguments['text']}")),
            "wait": (takes(seconds="number"), self._wait),
            "count": (ANY, lambda call: call.text(str(self.cancelled))),
            "progress": (ANY, self._progress),
            "fail": (ANY, lambda call: call.text("it went wrong", is_error=True)),
            "refuse": (ANY, lambda call: self._error(call.id, "I refuse", call.send)),
            "crash": (ANY, self._crash),
            "big": (takes(size="integer"), lambda call: call.text("x" * call.arguments["size"])),
            "picture": (ANY, lambda call: call.say({"type": "image", "data": "AAAA", "mimeType": "image/png"})),
            "environment": (ANY, lambda call: call.text(json.dumps(dict(os.environ)))),
            "deafen": (ANY, self._deafen),
            "grow": (ANY, self._grow),
        }

    def take(self, message: Json, send: Send) -> None:
        """Handle one message; what takes time is answered from a thread."""
        method: str = message.get("method", "")
        params: Json = message.get("params") or {}
        if method == "notifications/cancelled":
            found = self.waits.get(params.get("requestId"))
            if found is not None:
                self.cancelled += 1
                found.set()
        if "id" not in message or self.is_deaf:
            return
        if method == "tools/call":
            call = Call(message["id"], params, send)
            self.tools[call.name][1](call)
        elif method in self.answers:
            result = self.answers[method](params)
            if result is not None:
                send({"jsonrpc": "2.0", "id": message["id"], "result": result})
        else:
            self._error(message["id"], "no such method", send)

    def _initialize(self, params: Json) -> Json | None:
        if self.options.hang_in_initialize:
            return None
        capabilities: Json = {"tools": {"listChanged": True}, "resources": {}, "prompts": {}}
        info = {"name": self.options.name, "version": "1"}
        return {"protocolVersion": params["protocolVersion"], "capabilities": capabilities, "serverInfo": info}

    def _list(self, params: Json) -> Json:
        tools: list[Json] = [
            {"name": name, "description": f"To {name}", "inputSchema": schema}
            for name, (schema, _) in self.tools.items()
        ]
        tools[0]["annotations"] = {"readOnlyHint": True}
        if not self.options.pages:
            return {"tools": tools}
        at = int(params.get("cursor", 0))
        more = {"nextCursor": str(at + 1)} if at + 1 < len(tools) else {}
        return {"tools": tools[at : at + 1], **more}

    def _read(self, params: Json) -> Json:
        return {"contents": [{"uri": params["uri"], "mimeType": "text/plain", "text": "remember"}]}

    def _error(self, id_: object, words: str, send: Send) -> None:
        send({"jsonrpc": "2.0", "id": id_, "error": {"code": -32601, "message": words}})

    def _wait(self, call: Call) -> None:
        cancelled = self.waits[call.id] = threading.Event()

        def wait() -> None:
            if not cancelled.wait(call.arguments["seconds"]):
                call.text("waited")
            del self.waits[call.id]

        threading.Thread(target=wait, daemon=True).start()

    def _progress(self, call: Call) -> None:
        for step in range(1, 4):
            progress = {"progressToken": call.token, "progress": step, "total": 3, "message": f"step {step}"}
            call.send({"jsonrpc": "2.0", "method": "notifications/progress", "params": progress})
            time.sleep(0.02)
        call.text("done")

    def _crash(self, call: Call) -> None:
        print("about to crash", file=sys.stderr, flush=True)
        os._exit(3)

    def _deafen(self, call: Call) -> None:
        self.is_deaf = True
        call.text("what?")

    def _grow(self, call: Call) -> None:
        name = f"extra.{len(self.tools)}"
        self.tools[name] = (ANY, lambda call: call.text(f"I am {call.name}"))
        call.send({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"})
        call.text("grown")


def serve_stdio(fake: Fake) -> None:
    lock = threading.Lock()

    def send(message: Json) -> None:
        with lock:
            if fake.options.junk:
                sys.stdout.write("some words\n{ not JSON\n\n")
            sys.stdout.write(json.dumps(message) + "\n")
            sys.stdout.flush()

    for line in sys.stdin:
        fake.take(json.loads(line), send)
    while fake.options.stay:
        time.sleep(60)


class Handler(BaseHTTPRequestHandler):
    """Streamable HTTP that answers in JSON, and the SSE of old."""

    protocol_version = "HTTP/1.1"
    fake: Fake
    sessions: set[str]
    outbox: queue.Queue[Json]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self._is_welcome():
            return
        if self.path == "/forget":
            self.sessions.clear()
            self._answer(200)
            return
        message = json.loads(body)
        if self.path == "/messages":
            self._answer(202)
            self.fake.take(message, Handler.outbox.put)
            return
        if self.path != "/mcp":
            self._answer(405)
            return
        if message.get("method") == "initialize":
            self.sessions.add("s-1")
        elif self.headers["Mcp-Session-Id"] not in self.sessions:
            self._answer(404)
            return
        replies: queue.Queue[Json] = queue.Queue()
        self.fake.take(message, replies.put)
        if "id" not in message:
            self._answer(202)
            return
        reply = replies.get()
        while reply.get("id") != message["id"]:
            reply = replies.get()
        self._answer(200, json.dumps(reply).encode(), {"Content-Type": "application/json", "Mcp-Session-Id": "s-1"})

    def do_GET(self) -> None:
        if not self._is_welcome():
            return
        if self.path != "/sse":
            self._answer(405)
            return
        outbox = Handler.outbox = queue.Queue()  # of the latest client
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"event: endpoint\ndata: /messages\n\n")
        while True:
            message = outbox.get()
            self.wfile.write(f"event: message\ndata: {json.dumps(message)}\n\n".encode())

    def do_DELETE(self) -> None:
        self._answer(200)

    def _is_welcome(self) -> bool:
        token = self.fake.options.token
        is_welcome = not token or self.headers["Authorization"] == f"Bearer {token}"
        if not is_welcome:
            self._answer(401)
        return is_welcome

    def _answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 its name there
        """Say nothing."""


def serve_http(fake: Fake) -> None:
    Handler.fake, Handler.sessions, Handler.outbox = fake, set(), queue.Queue()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(f"http://127.0.0.1:{server.server_address[1]}", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--name", default="fake")
    parser.add_argument("--exit", type=int)
    parser.add_argument("--child", type=int)
    parser.add_argument("--token", default="")
    for switch in ("hang-in-initialize", "stay", "junk", "pages", "http"):
        parser.add_argument(f"--{switch}", action="store_true")
    options = parser.parse_args()
    if options.exit is not None:
        print("there is no model of that name", file=sys.stderr)
        sys.exit(options.exit)
    if options.stay:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.child:
        subprocess.Popen(["sh", "-c", f"trap '' TERM; sleep {options.child}"], stdin=subprocess.DEVNULL)
    fake = Fake(options)
    (serve_http if options.http else serve_stdio)(fake)


if __name__ == "__main__":
    main()
