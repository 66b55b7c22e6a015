"""Write what the documents say into `endpoints.json` and `recordings.json`, which the contract test runs from.

    python -m tests.contract.generate FOLDER        # from the repository's root

`FOLDER` has `contract/api.md`, `contract/examples/` and `seeds/`; it is no part of the repository.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from .documents import Endpoint, read, read_actions
from .recordings import Recordings, record

HERE = Path(__file__).parent
ENDPOINTS = HERE / "endpoints.json"
RECORDINGS = HERE / "recordings.json"


class Documents(msgspec.Struct):
    endpoints: list[Endpoint]
    actions: list[str]


def generate(folder: Path) -> dict[Path, bytes]:
    """What the two files should hold."""
    documents = Documents(read(folder), read_actions(folder))
    return {ENDPOINTS: _lines(documents), RECORDINGS: _lines(record(folder))}


def load() -> tuple[Documents, Recordings]:
    return (
        msgspec.json.decode(ENDPOINTS.read_bytes(), type=Documents),
        msgspec.json.decode(RECORDINGS.read_bytes(), type=Recordings),
    )


def _lines(data: object) -> bytes:
    """JSON with an entry a line, so that a change is seen."""
    members = msgspec.json.decode(msgspec.json.encode(data), type=dict[str, msgspec.Raw])
    named = (b'"%s": %s' % (name.encode(), _entries(raw)) for name, raw in members.items())
    return b"{\n" + b",\n".join(named) + b"\n}\n"


def _entries(raw: msgspec.Raw) -> bytes:
    if bytes(raw).startswith(b"["):
        return b"[\n" + b",\n".join(map(bytes, msgspec.json.decode(raw, type=list[msgspec.Raw]))) + b"\n]"
    named = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
    return b"{\n" + b",\n".join(b'"%s": %s' % (name.encode(), bytes(one)) for name, one in named.items()) + b"\n}"


if __name__ == "__main__":
    for file, content in generate(Path(sys.argv[1])).items():
        file.write_bytes(content)
