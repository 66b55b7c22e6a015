"""A git server on loopback: git's own `http-backend` behind a small web server, which can also misbehave."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

_IDENTITY = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_AUTHOR_NAME": "Ann",
    "GIT_AUTHOR_EMAIL": "ann@example.org",
    "GIT_COMMITTER_NAME": "Ann",
    "GIT_COMMITTER_EMAIL": "ann@example.org",
}


class FakeGitServer:
    """Serves the repositories in `folder`. `moved` has where a path has gone; `locked` ones ask for a password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.moved: dict[str, str] = {}
        self.locked: set[str] = set()
        self.silent = threading.Event()
        """Set, it answers nothing until it is let go."""
        self._may_go_on = threading.Event()
        self.asked: list[str] = []
        self.url = ""

    def let_go(self) -> None:
        """Let those who wait for an answer have none: their connections end."""
        self._may_go_on.set()

    def wait(self) -> None:
        self._may_go_on.wait()

    def add(self, name: str, files: Mapping[str, str | bytes], links: Mapping[str, str] | None = None) -> None:
        """Make the repository `owner/name` of one commit."""
        work = self.folder / "work" / name
        for path, text in files.items():
            file = work / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(text if isinstance(text, bytes) else text.encode())
        for path, target in (links or {}).items():
            (work / path).symlink_to(target)
        _git("init", "--quiet", "--initial-branch=main", ".", cwd=work)
        _git("add", "--all", cwd=work)
        _git("commit", "--quiet", "--message=all", cwd=work)
        bare = self.folder / f"{name}.git"
        bare.parent.mkdir(parents=True, exist_ok=True)
        _git("clone", "--quiet", "--bare", str(work), str(bare), cwd=self.folder)


@contextmanager
def fake_git_server(folder: Path) -> Generator[FakeGitServer]:
    folder.mkdir()
    fake = FakeGitServer(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"fake": fake}))
    server.daemon_threads = False
    fake.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield fake
    finally:
        fake.let_go()
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    fake: FakeGitServer

    def do_GET(self) -> None:
        fake, (path, _, query) = self.fake, self.path.partition("?")
        repository = path.partition(".git")[0].strip("/")
        fake.asked.append(f"{self.command} {self.path}")
        if fake.silent.is_set():
            fake.wait()
        elif repository in fake.moved:
            self._answer("301 Moved", {"Location": f"{fake.moved[repository]}{self.path}"}, b"")
        elif repository in fake.locked:
            self._answer("401 Unauthorized", {"WWW-Authenticate": 'Basic realm="git"'}, b"")
        else:
            self._serve(path, query)

    do_POST = do_GET  # noqa: N815 - the name is http.server's

    def _serve(self, path: str, query: str) -> None:
        environment = {
            "PATH": os.environ["PATH"],
            "GIT_PROJECT_ROOT": str(self.fake.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "REQUEST_METHOD": self.command,
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "CONTENT_TYPE": self.headers.get("Content-Type", ""),
            "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        run = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environment, check=False)
        head, _, content = run.stdout.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().splitlines())
        self._answer(headers.pop("Status", "200 OK"), headers, content)

    def _answer(self, status: str, headers: Mapping[str, str], content: bytes) -> None:
        code, _, reason = status.partition(" ")
        self.send_response(int(code), reason)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Say nothing."""


def _git(*arguments: str, cwd: Path) -> None:
    environment = {"PATH": os.environ["PATH"], **_IDENTITY}
    subprocess.run(["git", *arguments], cwd=cwd, env=environment, check=True, capture_output=True)
