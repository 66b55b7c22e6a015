"""The fake model server in a process of its own, so that journeys may block while the daemon asks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx2
import msgspec

from ..fakes.model_server import Reply

SERVER = Path(__file__).parent.parent / "fakes" / "model_server.py"


class Stats(msgspec.Struct, frozen=True):
    chats: int
    connections: int
    aborted: int
    open: int


class ModelServerProcess:
    def __init__(self, *options: str) -> None:
        command = [sys.executable, str(SERVER), "--port", "0", *options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.base_url = self._process.stdout.readline().removeprefix("listening on ").strip()
        self._http = httpx2.Client(base_url=self.base_url.removesuffix("/v1"), trust_env=False)

    def script(self, *replies: Reply) -> None:
        """Answer the next chats so, one each."""
        self._http.post("/_script", content=msgspec.json.encode(replies)).raise_for_status()

    def answer_always(self, reply: Reply) -> None:
        """Answer so whenever the script has run out."""
        self._http.post("/_default", content=msgspec.json.encode(reply)).raise_for_status()

    def stats(self) -> Stats:
        return msgspec.json.decode(self._http.get("/_stats").raise_for_status().content, type=Stats)

    def bodies(self) -> str:
        """The latest chat requests, as JSON."""
        return self._http.get("/_bodies").raise_for_status().text

    def close(self) -> None:
        self._http.close()
        self._process.kill()
        self._process.communicate()
