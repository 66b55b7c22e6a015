"""The files endpoints over real sockets: one jail, ranges, what a browser may do with what it is sent."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import httpx2
import pytest
import trio
from pocketpaw.http.files import ROUTES, SANDBOX
from pocketpaw.http.route import PREFIXES

from .conftest import Serve, eventually

API = "/api/v1/files"
DIGITS = b"0123456789"


@pytest.fixture
def jail(tmp_path: Path) -> Path:
    """The folder whose files may be reached, with a secret in it, and links that lead out of it."""
    jail = tmp_path.resolve() / "jail"
    for name, text in {"x.txt": "hello", "sub/deep/a.md": "# a", "sub/b": "b", ".ssh/id_ed25519": "canary"}.items():
        (jail / name).parent.mkdir(parents=True, exist_ok=True)
        (jail / name).write_text(text)
    (jail / "empty").touch()
    (jail / "digits.bin").write_bytes(DIGITS)
    (jail / "sub/void").mkdir()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "diary").write_text("canary")
    (jail / "sub/out").symlink_to(outside)
    (jail / "in").symlink_to(jail / "sub")
    return jail


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def read(client: httpx2.AsyncClient, path: str, **headers: str) -> httpx2.Response:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.get(f"{API}/content", params={"path": path}, headers=names)


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_a_folder_is_browsed_without_what_holds_secrets(serve: Serve, jail: Path, prefix: str) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        body = (await client.get(f"{prefix}/files/browse")).json()
        assert (body["path"], body["total"], body["error"]) == ("~", 5, None)
        shown = [(entry["name"], entry["isDir"], entry["size"], entry["size_bytes"]) for entry in body["files"]]
        assert shown == [
            ("in", True, "", None),
            ("sub", True, "", None),
            ("digits.bin", False, "10 B", 10),
            ("empty", False, "0 B", 0),
            ("x.txt", False, "5 B", 5),
        ]
        sub = (await client.get(f"{prefix}/files/browse", params={"path": "sub"})).json()["files"]
        assert [(entry["name"], entry["isDir"]) for entry in sub] == [
            ("deep", True),
            ("void", True),
            ("b", False),
            ("out", False),
        ]
        through_link = (await client.get(f"{prefix}/files/browse", params={"path": str(jail / "in")})).json()
        assert through_link["files"] == sub
        for path, status in {"/etc": 403, "sub/out": 403, ".ssh": 403, "nowhere": 404, "x.txt": 415, "": 200}.items():
            assert (await client.get(f"{prefix}/files/browse", params={"path": path})).status_code == status, path


async def test_a_file_is_read_with_its_type_and_nothing_is_sniffed(serve: Serve, jail: Path) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        response = await read(client, str(jail / "x.txt"))
        assert (response.status_code, response.text) == (200, "hello")
        assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert response.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert response.headers["Content-Length"] == "5"
        assert response.headers["Content-Disposition"].startswith('inline; filename="x.txt"')
        assert "Content-Security-Policy" not in response.headers
        empty = await read(client, "empty")
        assert (empty.status_code, empty.content, empty.headers["Content-Length"]) == (200, b"", "0")
        head = await client.head(f"{API}/content", params={"path": "x.txt"})
        assert (head.status_code, head.content, head.headers["Content-Length"]) == (200, b"", "5")
        assert (await read(client, "x.txt")).text == "hello"  # the connection is in order after that


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/etc/passwd", 403),
        ("../outside/diary", 403),
        ("sub/out/diary", 403),
        (".ssh/id_ed25519", 403),
        ("sub/../.ssh/id_ed25519", 403),
        ("x.txt\0.png", 422),
        ("", 422),
        ("nowhere", 404),
        ("sub", 415),
        ("x.txt/y", 415),
    ],
)
@pytest.mark.parametrize("endpoint", ["content", "download"])
async def test_what_is_no_file_of_the_jail_is_refused(
    serve: Serve, jail: Path, endpoint: str, path: str, status: int
) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        response = await client.get(f"{API}/{endpoint}", params={"path": path})
        assert response.status_code == status, response.text
        assert "canary" not in response.text
        if status == 422:
            assert response.json()["detail"][0]["loc"] == ["query", "path"]


async def test_a_device_or_a_pipe_is_refused_at_once(serve: Serve, jail: Path) -> None:
    os.mkfifo(jail / "pipe")
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        assert (await read(client, "pipe")).status_code == 403


@pytest.mark.parametrize(
    ("name", "content", "media_type", "is_sandboxed"),
    [
        ("page.html", b"<script>fetch('/api/v1/settings')</script>", "text/html; charset=utf-8", True),
        ("page.xhtml", b"<html/>", "application/xhtml+xml", True),
        ("image.svg", b"<svg onload='x()'/>", "image/svg+xml", True),
        ("feed.xml", b"<x/>", None, True),
        ("script.js", b"x()", None, True),
        ("unknown.qqq", b"\x00\x01", "application/octet-stream", True),
        ("README", b"plain words", "text/plain; charset=utf-8", False),
        ("latin1.txt", b"caf\xe9", "text/plain", False),
        ("pixel.png", b"\x89PNG", "image/png", False),
        ("paper.pdf", b"%PDF", "application/pdf", False),
        ("page.html.gz", b"\x1f\x8b", "application/gzip", True),
    ],
)
async def test_only_what_is_inert_is_shown_outside_of_a_sandbox(
    serve: Serve, jail: Path, name: str, content: bytes, media_type: str | None, is_sandboxed: bool
) -> None:
    (jail / name).write_bytes(content)
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        response = await read(client, name)
        assert response.content == content
        if media_type is not None:
            assert response.headers["Content-Type"] == media_type
        assert (response.headers.get("Content-Security-Policy") == SANDBOX) is is_sandboxed


@pytest.mark.parametrize(
    ("asked", "status", "part", "content_range"),
    [
        ("bytes=0-4", 206, b"01234", "bytes 0-4/10"),
        ("bytes=5-", 206, b"56789", "bytes 5-9/10"),
        ("bytes=8-99", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, DIGITS, "bytes 0-9/10"),
        ("bytes=9-9", 206, b"9", "bytes 9-9/10"),
        ("bytes=10-", 416, None, "bytes */10"),
        ("bytes=-0", 416, None, "bytes */10"),
        ("bytes=99-100", 416, None, "bytes */10"),
        ("bytes=0-1,3-4", 200, DIGITS, None),
        ("bytes=4-2", 200, DIGITS, None),
        ("bytes=a-b", 200, DIGITS, None),
        ("bytes=-", 200, DIGITS, None),
        ("lines=0-1", 200, DIGITS, None),
        (f"bytes={'9' * 5000}-", 200, DIGITS, None),
    ],
)
async def test_a_part_of_a_file_is_sent(
    serve: Serve, jail: Path, asked: str, status: int, part: bytes | None, content_range: str | None
) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        response = await read(client, "digits.bin", Range=asked)
        assert response.status_code == status
        assert response.headers.get("Content-Range") == content_range
        if part is None:
            assert response.json()["code"] == "range_not_satisfiable"
        else:
            assert response.content == part
            assert response.headers["Content-Length"] == str(len(part))
            assert response.headers["Accept-Ranges"] == "bytes"


async def test_of_an_empty_file_there_is_no_part(serve: Serve, jail: Path) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        for asked in ("bytes=0-", "bytes=-5"):
            assert (await read(client, "empty", Range=asked)).status_code == 416


async def test_what_the_client_has_is_not_sent_again_and_a_part_only_of_the_same_file(serve: Serve, jail: Path) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        first = await read(client, "digits.bin")
        tag, date = first.headers["ETag"], first.headers["Last-Modified"]
        for headers in ({"If_None_Match": tag}, {"If_None_Match": f'"x", W/{tag}'}, {"If_Modified_Since": date}):
            unchanged = await read(client, "digits.bin", **headers)
            assert (unchanged.status_code, unchanged.content) == (304, b"")
            assert unchanged.headers["ETag"] == tag
        for condition, status in {tag: 206, date: 206, '"other"': 200, f"W/{tag}": 200}.items():
            assert (await read(client, "digits.bin", Range="bytes=0-1", If_Range=condition)).status_code == status
        (jail / "digits.bin").write_bytes(b"changed")
        os.utime(jail / "digits.bin", (2_000_000_000, 2_000_000_000))
        assert (await read(client, "digits.bin", If_None_Match=tag)).content == b"changed"
        assert (await read(client, "digits.bin", Range="bytes=0-1", If_Range=tag)).content == b"changed"


async def test_a_file_is_downloaded_under_its_name_whatever_that_is(serve: Serve, jail: Path) -> None:
    (jail / 'Grüße "für" dich%.txt').write_text("hi")
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        response = await client.get(f"{API}/download", params={"path": 'Grüße "für" dich%.txt'})
        assert response.text == "hi"
        plain = "attachment; filename=\"Gr__e _f_r_ dich_.txt\"; filename*=UTF-8''"
        encoded = "Gr%C3%BC%C3%9Fe%20%22f%C3%BCr%22%20dich%25.txt"
        assert response.headers["Content-Disposition"] == plain + encoded
        resumed = await client.get(f"{API}/download", params={"path": "digits.bin"}, headers={"Range": "bytes=4-"})
        assert (resumed.status_code, resumed.content) == (206, DIGITS[4:])


async def test_a_large_file_is_sent_at_the_clients_pace_and_closed_when_it_goes_away(serve: Serve, jail: Path) -> None:
    (jail / "large").write_bytes(bytes(40_000_000))
    folder = Path("/proc/self/fd")

    def is_open() -> bool:
        return any(os.path.realpath(fd) == str(jail / "large") for fd in folder.iterdir())

    async def is_closed() -> bool:
        return not is_open()

    async with serve(file_jail_path=str(jail)) as daemon:
        request = f"GET {API}/content?path=large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream:
            await stream.send_all(request)
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            assert is_open()
        await eventually(is_closed)
        async with daemon.client() as client:
            assert len((await read(client, "large")).content) == 40_000_000
        await eventually(is_closed)


async def test_a_file_that_becomes_shorter_is_cut_off_and_is_no_failure(serve: Serve, jail: Path) -> None:
    (jail / "log").write_bytes(bytes(40_000_000))
    async with serve(file_jail_path=str(jail)) as daemon:
        request = f"GET {API}/content?path=log HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        received = 0
        async with await trio.open_tcp_stream("127.0.0.1", daemon.port) as stream:
            await stream.send_all(request)
            received += len(await stream.receive_some())
            os.truncate(jail / "log", 1000)
            while data := await stream.receive_some():
                received += len(data)
        assert received < 40_000_000
        async with daemon.client() as client:
            assert [one for one in (await client.get("/api/v1/health/errors")).json() if one["source"] == "http"] == []


async def test_a_folder_is_zipped_while_it_is_sent_and_no_link_is_followed(serve: Serve, jail: Path) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:
        response = await client.get(f"{API}/download-zip", params={"path": "sub"})
        assert response.status_code == 200
        assert response.headers["Content-Type"] == "application/zip"
        assert response.headers["Content-Disposition"].startswith('attachment; filename="sub.zip"')
        with zipfile.ZipFile(io.BytesIO(response.content)) as archive:
            assert archive.testzip() is None
            assert archive.namelist() == ["b", "deep/a.md", "void/", "LEFT-OUT.txt"]
            assert archive.read("deep/a.md") == b"# a"
            assert archive.read("LEFT-OUT.txt") == b"out: it is a link\n"
        for path, status in {"/": 403, ".ssh": 403, "sub/out": 403, "x.txt": 415, "nowhere": 404}.items():
            assert (await client.get(f"{API}/download-zip", params={"path": path})).status_code == status, path
        whole = await client.get(f"{API}/download-zip", params={"path": "."})
        with zipfile.ZipFile(io.BytesIO(whole.content)) as archive:
            assert not [name for name in archive.namelist() if ".ssh" in name]


async def test_a_text_is_written_at_once_and_whole(serve: Serve, jail: Path) -> None:
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as client:

        async def write(path: str, content: str = "new ü") -> tuple[int, dict[str, object]]:
            response = await client.post(f"{API}/write", json={"path": path, "content": content})
            return response.status_code, response.json()

        written = {"ok": True, "path": str(jail / "x.txt"), "size": 6}
        assert await write("x.txt") == (200, written)
        assert (jail / "x.txt").read_text() == "new ü"
        assert (await write("new.md", ""))[0] == 200
        assert (jail / "new.md").read_bytes() == b""
        for path, status in {"/etc/x": 403, "sub/out/x": 403, ".ssh/x": 403, "no/x": 404, "sub": 415, "": 422}.items():
            assert (await write(path))[0] == status, path
        assert [name for name in names(jail) if name.startswith(".")] == [".ssh"]
        assert (await client.post(f"{API}/write", json={"path": "x.txt"})).status_code == 422


async def test_a_file_is_uploaded_into_a_folder(serve: Serve, jail: Path) -> None:
    async with serve(file_jail_path=str(jail), media_max_file_size_mb=1) as daemon, daemon.client() as client:

        async def upload(name: str, data: bytes = b"data", **fields: str) -> httpx2.Response:
            return await client.post(f"{API}/upload", files={"file": (name, data)}, data=fields)

        done = await upload("photo.jpg", bytes(900_000))
        assert done.json() == {"ok": True, "path": str(jail / "photo.jpg"), "size": 900_000}
        assert (jail / "photo.jpg").stat().st_size == 900_000
        assert (await upload("photo.jpg")).status_code == 409
        assert (await upload("photo.jpg", replace="true")).status_code == 200
        assert (jail / "photo.jpg").read_bytes() == b"data"
        assert (await upload("C:\\Users\\ann\\~a.txt", path="sub")).status_code == 200
        assert (jail / "sub/~a.txt").read_bytes() == b"data"
        assert (await upload("../../evil", path="sub")).json()["path"].endswith("/sub/evil")
        for folder, status in {"/etc": 403, "sub/out": 403, ".ssh": 403, "nowhere": 404, "x.txt": 415}.items():
            assert (await upload("a", path=folder)).status_code == status, folder
        for name, status in {"..": 422, "/": 422, ".netrc": 403}.items():
            assert (await upload(name)).status_code == status, name
        assert (await upload("big", bytes(1_005_000))).status_code == 413
        assert not (jail / "big").exists()
        assert (await client.post(f"{API}/upload", json={})).status_code == 415
        assert names(daemon.live.home.uploads) == []


async def test_reading_and_writing_have_scopes_of_their_own(serve: Serve, jail: Path) -> None:
    needed = {route.path: route.scope for route in ROUTES}
    assert needed == {
        "/files/browse": "files:read",
        "/files/content": "files:read",
        "/files/download": "files:read",
        "/files/download-zip": "files:read",
        "/files/recent": "files:read",
        "/files/write": "files:write",
        "/files/upload": "files:write",
    }
    async with serve(file_jail_path=str(jail)) as daemon, daemon.stranger() as client:
        for route in ROUTES:
            path = f"/api/v1{route.path}?path=x.txt"
            assert (await client.request(route.method, path)).status_code == 401
