"""What the documents say there is: every endpoint of the contract and of the four documents that it is made of.

A line of a document that names a method and a path is an endpoint; so none can be forgotten. From the contract's tables
come also the fields of requests and answers, and the statuses.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from .notation import Form, structs

CONTRACT = "contract"
SEEDS = {"000": "A", "001": "B", "002": "C", "003": "D"}
"""What the contract calls the documents, by the beginning of their files' names."""

PROSE_SECTION, LATER_SECTION = "1", "9"

INTENTION: Form = {
    **dict.fromkeys(("id", "name", "prompt", "context_sources", "enabled", "created_at", "last_run", "next_run")),
    "trigger": {"type": "string", "schedule": None},
}
CORRECTIONS: Mapping[str, Mapping[str, Form]] = {
    "GET /api/v1/intentions": {"answers": {"intentions": [INTENTION]}},
    "POST /api/v1/intentions": {"answers": {"intention": INTENTION}},
    "POST /api/v1/remote/start": {"asks": {}, "answers": {"active": "boolean", "url": None, "error": None}},
    "GET /api/v1/kits/catalog": {"answers": {}},
    "GET /api/v1/kits": {"answers": {"kits": []}},
}
"""Of rows that name several endpoints: which one has which fields."""

_METHOD = "GET|POST|PUT|PATCH|DELETE"
_SEGMENT = r"(?:[a-z0-9_.-]+|\{[\w-]+\}|:[a-z]+(?:Id|Name)?)"
_NAMED = re.compile(rf"\b({_METHOD})\s*\|?\s*(?:http://localhost:\d+)?((?:/{_SEGMENT})+)")
_LINKED = re.compile(r"http://localhost:\d+((?:/[a-z0-9_.]+)+)")
_IN_CELL = re.compile(rf"^(?:((?:{_METHOD})(?:/(?:{_METHOD}))*) )?([…/\w.{{}}-]+)")
_IN_TEXT = re.compile(rf"\b({_METHOD}) (/?{_SEGMENT}(?:/{_SEGMENT})+)|`([a-z-]+(?:/[\w-]+)+)(?:\?[^`]*)?`")
_IN_PROSE = re.compile(r"`(/[a-z0-9_./-]+[a-z])`")
_QUERY = re.compile(r"`\?([^`]*)`")
_STATUS = re.compile(r"\b(202|302|4\d\d|503|504)\b")


class Endpoint(msgspec.Struct, omit_defaults=True):
    """`path` is the canonical one, its parameters nameless. `sources` are documents and lines, as `A:33`."""

    method: str
    path: str
    sources: list[str] = []
    later: bool = False
    """No row of the contract asks for it yet."""
    query: list[str] = []
    asks: dict[str, object] = {}
    answers: dict[str, object] = {}
    statuses: list[int] = []
    """What it may answer besides the usual, as the contract writes it."""

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"


def read_actions(folder: Path) -> list[str]:
    """What a client may say on the WebSocket: `chat`, `type:subscribe` where it is a type."""
    said = (folder / "contract/api.md").read_text().partition("client → server:")[2]
    own, _, rest = said.partition("server → client:")
    found = {
        f"{'type:' if kind == 'type' else ''}{name}"
        for kind, names in re.findall(r'"(action|type)":((?:"\w+"\|?)+)', own)
        for name in re.findall(r"\w+", names)
    }
    listed = re.search(r"`examples/ws_\*\.jsonl`\): (.*), each the same message", rest)
    assert listed is not None
    for one in listed[1].split(", "):
        *verbs, last = one.split("/")
        found |= {last, *(f"{verb}{last.partition('_')[2]}" for verb in verbs)}
    return sorted(found)


def read(folder: Path) -> list[Endpoint]:
    """Read `contract/api.md` and `seeds/*.txt` in `folder`."""
    found: dict[str, Endpoint] = {}
    for one in _contract((folder / "contract/api.md").read_text()):
        _merge(found, one)
    asked_for = set(found)
    for file in sorted((folder / "seeds").glob("*.txt")):
        name = SEEDS[file.name[:3]]
        for method, path, line in seed_lines(file.read_text(), prefix="/api/v1" if name == "A" else ""):
            _merge(found, Endpoint(method, path, [f"{name}:{line}"]))
    for key, one in found.items():
        for name, form in CORRECTIONS.get(key, {}).items():
            setattr(one, name, form)
        one.later = key not in asked_for and all(source.startswith("D:") for source in one.sources)
    return sorted(found.values(), key=lambda one: (one.path, one.method))


def seed_lines(text: str, prefix: str = "") -> Iterator[tuple[str, str, int]]:
    """Method, path and line of each endpoint; below `prefix` where a path has none of its own."""
    for number, line in enumerate(text.splitlines(), 1):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", line.replace("`", "").replace("\\", ""))
        for method, path in _NAMED.findall(plain):
            yield method, canonical(path, prefix), number
        if "curl" not in plain:
            for path in _LINKED.findall(plain):
                yield "GET", canonical(path, prefix), number


def canonical(path: str, prefix: str = "") -> str:
    """The path under the canonical prefix, or as it is where it has none; its parameters without names."""
    path = re.sub(r"\{[^}]*\}|:\w+", "{}", path)
    path = path.rstrip(".")
    if path.startswith("/api/"):
        return "/api/v1/" + path.removeprefix("/api/").removeprefix("v1/")
    return prefix + path


def _contract(text: str) -> Iterator[Endpoint]:
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if heading := re.match(r"## (\d+)\.", line):
            section = heading[1]
        source = f"{CONTRACT}:{number}"
        if section == PROSE_SECTION:
            named_here = [path for path in _IN_PROSE.findall(line) if not path.endswith("/ws")]
            yield from (Endpoint("GET", path, [source]) for path in named_here)
        cells = [cell.strip() for cell in line.replace("csv|json", "csv,json").replace("json|md", "json,md").split("|")]
        if section == LATER_SECTION or len(cells) < 4 or not re.match(_METHOD, cells[1]):
            continue
        named = list(_cell(cells[1]))
        mentions = list(_mentions(cells[2]))
        own = cells[2][: mentions[0][0].start()] if mentions else cells[2]
        for (method, path), said in zip(named, _parts(own, len(named)), strict=True):
            yield _described(Endpoint(method, path, [source]), said)
        for mention, after in mentions:
            yield _described(Endpoint(mention[1] or "GET", _full(mention[2] or mention[3]), [source]), after)
        if re.search(r"\bDELETE (?:clears|resets|\()", cells[2]):
            yield Endpoint("DELETE", named[0][1], [source])


def _mentions(cell: str) -> Iterator[tuple[re.Match[str], str]]:
    """The endpoints that a row's second cell names, and what it says after each."""
    found = list(_IN_TEXT.finditer(cell))
    for one, following in zip(found, [*found[1:], None], strict=False):
        yield one, cell[one.end() : following.start() if following is not None else None]


def _cell(cell: str) -> Iterator[tuple[str, str]]:
    """The endpoints of a row's first cell: `GET a; POST a/add / remove; PATCH/DELETE a/{id}; POST …/run`."""
    method, path = "", ""
    for part in re.split(r"[;,]| / ", re.sub(r"\(.*?\)|`.*?`", "", cell)):
        found = _IN_CELL.match(part.strip())
        assert found is not None, cell
        method = found[1] or method
        path = _beside(path, found[2])
        for one in method.split("/"):
            yield one, path


def _beside(previous: str, path: str) -> str:
    """The full path of one that is written short: `…/run`, or `remove` after `a/add`."""
    if path.startswith("…"):
        return f"{re.sub(r'/(?:toggle|run)$', '', previous)}{path[1:]}"
    if previous and "/" not in path and path not in previous.split("/") and path != "kits":
        return f"/api/v1/{previous.split('/')[3]}/{path}"
    return _full(path)


def _full(path: str) -> str:
    return canonical(path) if path.startswith("/") else canonical(f"/api/v1/{path}")


def _parts(cell: str, count: int) -> list[str]:
    """What a row's second cell says of each of so many endpoints."""
    if count == 1:
        return [cell]
    kept = re.sub(r"`[^`]*`|\([^)]*\)", lambda found: found[0].replace(";", "\0").replace(" / ", "\1"), cell)
    parts = [part.replace("\0", ";").replace("\1", " / ") for part in re.split(r";| / ", kept)]
    return [*parts, *[""] * count][:count]


def _described(endpoint: Endpoint, said: str) -> Endpoint:
    before, arrow, after = said.replace("answers `{", "→ `{").partition("→")
    queries = _QUERY.findall(before)
    endpoint.query = [name for query in queries for name in re.findall(r"(\w+)=", query)]
    has_body = endpoint.method not in ("GET", "DELETE")
    asked = structs(before) if has_body else []
    answered = structs(after if arrow else "" if has_body else before)
    endpoint.asks = dict(asked[0]) if asked else {}
    endpoint.answers = dict(answered[0]) if answered else {}
    endpoint.statuses = sorted({int(status) for status in _STATUS.findall(re.sub(r"\(.*?\)|`.*?`", "", said))})
    return endpoint


def _merge(found: dict[str, Endpoint], one: Endpoint) -> None:
    known = found.setdefault(one.key, one)
    if known is not one:
        known.sources += [source for source in one.sources if source not in known.sources]
        known.query = known.query or one.query
        known.asks = known.asks or one.asks
        known.answers = known.answers or one.answers
