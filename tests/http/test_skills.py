from __future__ import annotations

import io
import zipfile

import pytest
from pocketpaw.http.route import PREFIXES

from .conftest import Daemon, Serve

SKILL = "---\nname: {name}\ndescription: Writes poems.\nargument-hint: [topic]\n---\nRhyme.\n"


def zipped(*names: str, size: int = 0) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(f"{name}/SKILL.md", SKILL.format(name=name))
            archive.writestr(f"{name}/data", bytes(size))
    return data.getvalue()


def left(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in daemon.live.home.skills.iterdir())


@pytest.mark.parametrize("prefix", PREFIXES)
async def test_skills_are_installed_listed_found_and_removed(serve: Serve, prefix: str) -> None:
    async with serve() as daemon, daemon.client() as client:
        assert (await client.get(f"{prefix}/skills")).json() == []
        folder = daemon.live.home.skills / "poems"
        folder.mkdir()
        (folder / "SKILL.md").write_text(SKILL.format(name="poems"))
        assert (await client.post(f"{prefix}/skills/reload")).json() == {"status": "ok", "count": 1}
        (poems,) = (await client.get(f"{prefix}/skills")).json()
        assert poems == {
            "name": "poems",
            "description": "Writes poems.",
            "argument_hint": "[topic]",
            "tools": [],
            "error": "",
        }
        found = (await client.get(f"{prefix}/skills/search", params={"q": "poem"})).json()
        assert found == {"skills": [poems], "count": 1}
        assert (await client.post(f"{prefix}/skills/remove", json={"name": "poems"})).json() == {"status": "ok"}
        assert (await client.post(f"{prefix}/skills/remove", json={"name": "poems"})).status_code == 404
        for source, status in {"/etc": 403, "nonsense": 422, "": 422}.items():
            refused = await client.post(f"{prefix}/skills/install", json={"source": source})
            assert refused.status_code == status, refused.text
        assert (await client.post(f"{prefix}/skills/install", json={})).json()["detail"][0]["loc"] == ["body", "source"]
        assert (
            await client.post(f"{prefix}/skills/install", content=b"x=1", headers={"Content-Type": "text/plain"})
        ).status_code == 415


async def test_a_zip_is_uploaded(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as client:

        async def upload(data: bytes, **fields: str) -> tuple[int, dict[str, object]]:
            files = {"file": ("skills.zip", data, "application/zip")}
            response = await client.post("/api/v1/skills/install", files=files, data=fields)
            return response.status_code, response.json()

        status, answer = await upload(zipped("poems", "rain", size=1_000_000))
        assert status == 200, answer
        assert left(daemon) == ["poems", "rain"]
        assert (await upload(zipped("poems")))[0] == 409
        assert (await upload(zipped("poems"), replace="true"))[0] == 200
        assert (await upload(b"no zip"))[0] == 422
        assert left(daemon) == ["poems", "rain"]


async def test_a_form_that_is_none_is_refused_and_leaves_nothing(serve: Serve) -> None:
    async with serve(media_max_file_size_mb=1) as daemon, daemon.client() as client:

        async def post(content: bytes, boundary: str = "; boundary=b") -> int:
            headers = {"Content-Type": f"multipart/form-data{boundary}"}
            response = await client.post("/api/v1/skills/install", content=content, headers=headers)
            assert response.status_code < 500, response.text
            return response.status_code

        field = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n'
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x.zip"\r\n\r\n'
        assert await post(b"") == 422
        assert await post(b"x") == 422
        assert await post(b"x", boundary="") == 422
        assert await post(b"x", boundary="; boundary=" + "b" * 300) == 422
        assert await post(head + b"x") == 422
        assert await post(b"--b--\r\n") == 422
        assert await post(field + b"x\r\n--b--\r\n") == 422
        assert await post(b"--b\r\nContent-Type: x\r\n\r\nx\r\n--b--\r\n") == 422
        assert await post(head + b"x\r\n" + head + b"x\r\n--b--\r\n") == 422
        assert await post(field + b"x" * 20_000 + b"\r\n--b--\r\n") == 413
        assert await post((field + b"x\r\n") * 30 + b"--b--\r\n") == 413
        assert await post(head + b"x" * 1_005_000 + b"\r\n--b--\r\n") == 413
        assert await post(head + b"x" * 1_200_000 + b"\r\n--b--\r\n") == 413
        assert left(daemon) == []
