"""The reader of the documents misses no endpoint, and what it has read is what the repository keeps."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from .documents import read, read_actions, seed_lines
from .generate import generate, load
from .notation import structs

FOLDER = os.environ.get("POCKETPAW_CONTRACT", "")

CONTRACT = """\
## 1. Conventions
- Without a prefix: `/health/live`, `/ws`, `/static/*`.
## 3. Chat
| method, path | in → out |
|---|---|
| POST chat | `{content 1..100, media?:[]}` → `{session_id, usage}`; 404 for an unknown `session_id` |
| GET things; POST things/add / remove; PATCH/DELETE things/{id}; POST …/toggle | `{things:[{id, on:true}]}`; `{id}` → \
`{ok:true}` |
| GET usage | `?since=` → `{tokens, by:{}, names:{name:{count}}}`; `usage/recent`; DELETE resets |
| GET one/{id} (D) | → one of the above; also `GET one/{id}/parts`, D |
client → server: `{"action":"chat"|"message","content"}`, `{"type":"subscribe","channels":[…]}`
server → client: `pong`.
By P: (`examples/ws_*.jsonl`): get_things, add_/drop_thing, each the same message as its REST twin.
## 9. D's system
| hooks | GET/POST hooks; GET hooks/{id} |
"""
SEEDS = {
    "000_a.txt": "Chat Method Endpoint POST/chatSend message POST/chat/stopCancel GET/things/{id}One\n"
    "Swagger UI: http://localhost:8888/api/v1/docsReDoc: http://localhost:8888/api/v1/redoc\n",
    "001_b.txt": "GET | /api/things | List\nPOST | /webhook/inbound/{name} | Receive |",
    "002_c.txt": "| `DELETE` | [/api/things/\\{id\\}](/api/delete-thing) | Delete |\n"
    "curl http://localhost:8000/api/unlisted\n",
    "003_d.txt": "GET/healthBasic health check\nPOST/api/hooks/:id/enableEnable hook\n"
    "DELETE/api/skills/permissions/:skillId/:actionReset\nPOST/api/auth/loginNoLogin\n",
}


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "contract").mkdir()
    (tmp_path / "contract/api.md").write_text(CONTRACT)
    (tmp_path / "seeds").mkdir()
    for name, text in SEEDS.items():
        (tmp_path / "seeds" / name).write_text(text)
    return tmp_path


def test_every_endpoint_of_every_document_is_found_where_it_stands(documents: Path) -> None:
    asked = {one.key: one.sources for one in read(documents) if not one.later}
    assert asked == {
        "GET /health/live": ["contract:2"],
        "POST /api/v1/chat": ["contract:6", "A:1"],
        "GET /api/v1/things": ["contract:7", "B:1"],
        "POST /api/v1/things/add": ["contract:7"],
        "POST /api/v1/things/remove": ["contract:7"],
        "PATCH /api/v1/things/{}": ["contract:7"],
        "DELETE /api/v1/things/{}": ["contract:7", "C:1"],
        "POST /api/v1/things/{}/toggle": ["contract:7"],
        "GET /api/v1/usage": ["contract:8"],
        "GET /api/v1/usage/recent": ["contract:8"],
        "DELETE /api/v1/usage": ["contract:8"],
        "GET /api/v1/one/{}": ["contract:9"],
        "GET /api/v1/one/{}/parts": ["contract:9"],
        "POST /api/v1/chat/stop": ["A:1"],
        "GET /api/v1/things/{}": ["A:1"],
        "GET /api/v1/docs": ["A:2"],
        "GET /api/v1/redoc": ["A:2"],
        "POST /webhook/inbound/{}": ["B:2"],
    }


def test_what_only_the_fourth_document_names_is_for_later(documents: Path) -> None:
    assert {one.key: one.sources for one in read(documents) if one.later} == {
        "GET /health": ["D:1"],
        "POST /api/v1/hooks/{}/enable": ["D:2"],
        "DELETE /api/v1/skills/permissions/{}/{}": ["D:3"],
        "POST /api/v1/auth/login": ["D:4"],
    }


def test_what_the_contract_says_of_an_endpoint_is_read(documents: Path) -> None:
    found = {one.key: one for one in read(documents)}
    chat = found["POST /api/v1/chat"]
    assert (chat.asks, chat.answers) == ({"content": None, "media?": []}, {"session_id": None, "usage": None})
    assert chat.statuses == [404]
    assert found["GET /api/v1/things"].answers == {"things": [{"id": None, "on": "boolean"}]}
    assert found["POST /api/v1/things/add"].asks == {"id": None}
    assert found["POST /api/v1/things/add"].answers == {"ok": "boolean"}
    usage = found["GET /api/v1/usage"]
    assert (usage.query, usage.answers) == (["since"], {"tokens": None, "by": {}, "names": {"*": {"count": None}}})


def test_the_actions_of_the_socket_are_read(documents: Path) -> None:
    assert read_actions(documents) == ["add_thing", "chat", "drop_thing", "get_things", "message", "type:subscribe"]


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("`{a 1..5, b?, c=7, d: x/y}`", {"a": None, "b?": None, "c": None, "d": "string"}),
        ('`[{a:{b:[{c}]}, d:null or {…}, e:"ok"}]`', {"a": {"b": [{"c": None}]}, "d": None, "e": "string"}),
        ("`{…, secret, mem_*…, auto}`", {"secret": None, "auto": None}),
    ],
)
def test_the_notation_is_read(text: str, form: object) -> None:
    assert structs(text) == [form]


def test_a_line_that_names_no_method_is_no_endpoint() -> None:
    assert list(seed_lines("Auth-exempt paths: /webhook/*, /api/qr\nPOSTER/chat\nuse /api/chat")) == []


def test_what_is_kept_is_of_the_whole_contract() -> None:
    documents, recordings = load()
    asked = [one for one in documents.endpoints if not one.later]
    assert (len(asked), len(documents.endpoints) - len(asked)) == (117, 60)
    assert len(recordings.answers) > 80


@pytest.mark.skipif(not FOLDER, reason="POCKETPAW_CONTRACT names no folder with the documents")
def test_what_is_kept_is_what_the_documents_say() -> None:
    for file, content in generate(Path(FOLDER)).items():
        assert file.read_bytes() == content, f"{file.name}: run python -m tests.contract.generate {FOLDER}"
