"""The fake model server as a program of its own, told over HTTP what to answer."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from .model_server import split_text


@pytest.fixture
def base_url() -> Iterator[str]:
    program = Path(__file__).with_name("model_server.py")
    command = [sys.executable, str(program), "--text", "Paw.", "--chunks", "2"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield server.stdout.readline().removeprefix("listening on ").strip()
        server.kill()


def test_it_is_scripted_counted_and_read_back_over_http(base_url: str) -> None:
    chat = {"messages": [{"role": "user", "content": "hi"}]}
    root = base_url.removesuffix("/v1")
    with httpx2.Client() as client:
        client.post(f"{root}/_script", json=[{"text": None}, {"status": 503, "retry_after": "2"}]).raise_for_status()
        echoed = client.post(f"{base_url}/chat/completions", json=chat)
        failed = client.post(f"{base_url}/chat/completions", json=chat)
        streamed = client.post(f"{base_url}/chat/completions", json={**chat, "stream": True})
        assert echoed.json()["choices"][0]["message"]["content"] == "echo: hi"
        assert (failed.status_code, failed.headers["retry-after"]) == (503, "2")
        assert '"content":"Pa"' in streamed.text
        assert streamed.text.endswith("data: [DONE]\n\n")
        client.post(f"{root}/_default", json={"text": "Other."}).raise_for_status()
        assert client.post(f"{base_url}/chat/completions", json=chat).json()["usage"]["completion_tokens"] == 5
        assert client.get(f"{root}/_stats").json()["chats"] == 4
        assert client.get(f"{root}/_bodies").json()[0] == chat
        assert client.head(f"{base_url}/models").status_code == 200
        assert client.get(f"{base_url}/nowhere").status_code == 404


@pytest.mark.parametrize(("text", "chunks"), [("", 5), ("ab", 5), ("abcdefghijk", 4), ("é🐾", 1)])
def test_the_pieces_of_a_text_join_to_it(text: str, chunks: int) -> None:
    pieces = list(split_text(text, chunks))
    assert "".join(pieces) == text
    assert len(pieces) == min(chunks, len(text))
