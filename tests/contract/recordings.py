"""What PocketPaw 0.4.18 was seen to answer: the shapes only, made from the recorded exchanges."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from .shapes import Shape, merged, shape_of

Json = dict[str, Any]

IDS = re.compile(
    r"websocket_\w+|my-own-id|nosuch|project-orchestrator|\d{4}-\d\d-\d\d|[0-9a-f]{16}|[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)


class Recorded(msgspec.Struct, omit_defaults=True):
    """`endpoint` is method and canonical path. Without a shape it is no JSON."""

    endpoint: str
    status: int
    media_type: str
    shape: object = None


class Recordings(msgspec.Struct):
    answers: list[Recorded]
    events: dict[str, dict[str, object]]
    """By endpoint, what each event of its stream carries."""
    socket: dict[str, dict[str, object]]
    """By the client's action, what the server tells then, by type."""


def record(folder: Path) -> Recordings:
    """Read `contract/examples` in `folder`."""
    examples = folder / "contract/examples"
    answers: dict[tuple[str, int, str], Recorded] = {}
    for file in sorted(examples.glob("*.json")):
        one = _answer(json.loads(file.read_text()))
        known = answers.setdefault((one.endpoint, one.status, one.media_type), one)
        if known.shape is not None and one.shape is not None:
            known.shape = merged(cast("Shape", known.shape), cast("Shape", one.shape))
    events: dict[str, dict[str, object]] = {}
    for file in sorted(examples.glob("*.txt")):
        heading = file.read_text().split("\n", 1)[0].removeprefix("# ")
        method, path, _ = heading.split(" ", 2)
        _add(events.setdefault(f"{method} {_nameless(path)}", {}), _frames(file.read_text()))
    socket: dict[str, dict[str, object]] = {}
    for file in sorted(examples.glob("ws_*.jsonl")):
        for action, type_, told in _told(file.read_text()):
            _add(socket.setdefault(action, {}), [(type_, told)])
    return Recordings(list(answers.values()), events, socket)


def _answer(recorded: Json) -> Recorded:
    request = recorded.get("request", {"method": "GET", "path": "/api/v1/version"})
    media_type = recorded["headers"].get("content-type", "").partition(";")[0]
    shape = shape_of(_without_marks(recorded["body"])) if media_type == "application/json" else None
    return Recorded(f"{request['method']} {_nameless(request['path'])}", recorded["status"], media_type, shape)


def _without_marks(value: object) -> object:
    """Without the texts that stand in long lists of objects for what was left out."""
    if isinstance(value, dict):
        return {name: _without_marks(inner) for name, inner in cast("Json", value).items()}
    if isinstance(value, list):
        items = cast("list[object]", value)
        has_objects = any(isinstance(item, dict) for item in items)
        return [_without_marks(item) for item in items if not (has_objects and isinstance(item, str))]
    return value


def _nameless(path: str) -> str:
    return "/".join("{}" if IDS.fullmatch(part) else part for part in path.partition("?")[0].split("/"))


def _frames(text: str) -> Iterator[tuple[str, Json]]:
    for name, data in re.findall(r"^event: (.*)\ndata: (.*)$", text, re.MULTILINE):
        yield name, json.loads(data)


def _told(transcript: str) -> Iterator[tuple[str, str, Json]]:
    """What was told after which action; `connect` comes first."""
    action = "connect"
    for line in map(json.loads, transcript.splitlines()):
        said = line.get("send")
        if isinstance(said, dict):
            action = str(said.get("action", "no action"))  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType] - it is data
        elif "recv" in line and line["recv"]["type"] != "system_event":
            yield action, line["recv"]["type"], line["recv"]


def _add(known: dict[str, object], told: Iterable[tuple[str, Json]]) -> None:
    for name, data in told:
        shape = shape_of(data)
        known[name] = merged(cast("Shape", known[name]), shape) if name in known else shape


def by_endpoint(recordings: Recordings) -> Mapping[str, Recorded]:
    """The answers that are successes."""
    return {one.endpoint: one for one in recordings.answers if one.status < 300}
