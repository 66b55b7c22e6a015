"""An endpoint is one declaration: method, path, what answers it, who may.

    get("/reminders", ListReminders, scope="reminders")

What answers is a message type (its owner is asked, and its reply is the response), or a handler, for what is more than
that: an async function that takes what it needs of `call`, `message` (a struct made of the request's fields) and `body`
(the whole JSON). From the types come the fields and their bounds, the 422s, and the entry in the OpenAPI document.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, cast, get_type_hints

import msgspec
from quart import Response

from ..actors.access.guard import Bucket
from ..runtime import Done, Message
from ..runtime.errors import InvalidInput, NotBuilt
from ..runtime.message import reply_type
from .audited import Attempt, Audited, how_audited, summary_of
from .binding import Binding, Default, decode_json, require_json
from .call import Call

Handler = Callable[..., Awaitable[object]]

PREFIXES = ("/api/v1", "/api")
"""Where every endpoint is mounted; the first is canonical."""

JSON = "application/json"
DONE = b'{"status":"ok"}'
_JSON_HEADERS = {"Content-Type": JSON}


class Route:
    """One endpoint. `scope` None means that any credential will do; `is_exempt` that none is needed."""

    def __init__(
        self,
        method: str,
        path: str,
        endpoint: type[Message[Any]] | Handler,
        *,
        scope: str | None = None,
        is_exempt: bool = False,
        bucket: Bucket = "api",
        at_root: bool = False,
        status: HTTPStatus = HTTPStatus.OK,
        produces: str = JSON,
        responses: Mapping[HTTPStatus, tuple[str, Any]] | None = None,
        is_built: bool = True,
        query: Iterable[str] = (),
        only: Iterable[str] | None = None,
        defaults: Mapping[str, Default] | None = None,
        wire: Mapping[str, str] | None = None,
        headers: Mapping[str, dict[str, object]] | None = None,
        described_as: Sequence[Any] = (),
        on_resume: Route | None = None,
        is_endless: bool = False,
        takes_upload: bool = False,
        takes_anything: bool = False,
        takes_form: bool = False,
        audit: Audited | str | bool = True,
    ) -> None:
        self.method = method
        self.path = path
        self.scope = scope
        self.is_exempt = is_exempt
        self.bucket: Bucket = bucket
        self.at_root = at_root
        self.status = status
        self.produces = produces
        self.responses = dict(responses or {})
        """What it answers besides the usual: by status what that means, and the type of the JSON, None for none."""
        self.is_built = is_built
        self.headers = dict(headers or {})
        """Request headers that it reads, with their JSON Schema."""
        self.described_as = tuple(described_as)
        """The types of which the body is one, for the document, where the handler's own says less."""
        self.is_endless = is_endless
        """Its stream ends only with its client, or with the server."""
        self.takes_upload = takes_upload
        """Its handler reads the body itself: JSON as it is described, or a multipart form with a file."""
        self.takes_form = takes_form
        """Its handler reads the body itself: JSON as it is described, or a URL-encoded form of the same fields."""
        self.takes_anything = takes_anything
        """Its handler reads the body itself, byte for byte and whatever it is; fields are in path and query."""
        self.on_resume = on_resume
        """What answers instead when the client says, by `Last-Event-ID`, that it has a part of the stream already."""
        self.has_body = method in {"POST", "PUT", "PATCH"} and not takes_anything
        self.path_names = re.findall(r"{(\w+)", path)
        self.message: Binding[Any] | None = None
        self.body_type: Any = None
        """The type of the whole JSON body, for a handler that takes it so."""
        bind = partial(
            Binding[Any],
            path=self.path_names,
            has_body=self.has_body,
            query=query,
            only=only,
            defaults=defaults,
            wire=wire,
        )
        hints: dict[str, Any] = {}
        if isinstance(endpoint, type):
            self.name = endpoint.__name__
            self.doc = inspect.getdoc(endpoint) or ""
            self.handler = None
            self.answer_type: Any = reply_type(endpoint)
            self.message = bind(endpoint)
        else:
            self.name = "".join(word.capitalize() for word in endpoint.__name__.split("_"))
            self.doc = inspect.getdoc(endpoint) or ""
            self.handler = endpoint
            hints |= get_type_hints(endpoint)
            self.answer_type = hints.get("return")
            if "message" in hints:
                self.message = bind(hints["message"])
            self.body_type = hints.get("body")
        self.audited = how_audited(method, path, audit) if is_built else None
        self._takes_call = "call" in hints
        self._decode_body = msgspec.json.Decoder(self.body_type).decode if self.body_type is not None else None

    @property
    def mounts(self) -> list[str]:
        """The paths at which it answers; the first is canonical."""
        return [self.path] if self.at_root else [prefix + self.path for prefix in PREFIXES]

    @property
    def is_static(self) -> bool:
        """Whether it answers out of itself, and asks nobody."""
        return self.handler is not None and not self._takes_call

    @property
    def reads_body(self) -> bool:
        return self.body_type is not None or (self.message is not None and self.message.body is not None)

    def needs(self, field: str) -> bool:
        """Whether it cannot do without a field that may stand in more than one place."""
        return self.message is not None and field in self.message.either

    def attempt(self, trace_id: str, peer: str | None) -> Attempt | None:
        """A new attempt at it, for the audit; None if that has none of it."""
        if self.audited is None:
            return None
        return Attempt(self.name, summary_of(self.doc), self.audited, trace_id, peer)

    async def answer(self, call: Call) -> Response:
        """Turn the request into a message, and the reply into the response; raises PocketPawError."""
        if self.on_resume is not None and call.request.headers.get("Last-Event-ID"):
            return await self.on_resume.answer(call)
        body = b""
        if self.reads_body:
            body = await call.body()
            require_json(call.request.headers.get("Content-Type"), body)
        elif self.handler is not None and self.has_body and not (self.takes_upload or self.takes_form):
            await call.body()
        try:
            reply = await self._reply(call, body)
        except InvalidInput as error:
            raise self._located(error) from None
        if isinstance(reply, Response):
            return reply
        content = DONE if isinstance(reply, Done) else msgspec.json.encode(reply)
        return Response(content, self.status.value, _JSON_HEADERS)

    async def _reply(self, call: Call, body: bytes) -> object:
        message: Any = None if self.message is None else self.message.bind(call.values, call.request.args, body)
        call.tell_audit(message)
        if self.handler is None:
            return call.tell_audit(cast("object", await call.ask(message)))
        given: dict[str, object] = {"call": call} if self._takes_call else {}
        if message is not None:
            given["message"] = message
        if self._decode_body is not None:
            given["body"] = decode_json(self._decode_body, body)
        return call.tell_audit(await self.handler(**given))

    def _located(self, error: InvalidInput) -> InvalidInput:
        """An actor names a field of its message; the client knows it by where it stands in the request."""
        field = error.data.get("field")
        named = [field] if isinstance(field, str) else field
        if not isinstance(named, list | tuple) or not named or named[0] in {"query", "body", "header"}:
            return error
        first, *rest = map(str, named)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - it is data
        if first == "path" and rest:
            return error  # alone it is a field that is called so
        place = ["body", first] if self.message is None else self.message.locate(first)
        return InvalidInput(error.detail, **{**error.data, "field": [*place, *rest]})


def no_content(headers: Mapping[str, str] | None = None) -> Response:
    """A response that is its status, 204."""
    response = Response(b"", HTTPStatus.NO_CONTENT.value, dict(headers or {}))
    response.headers.pop("Content-Type", None)
    return response


def _declare(method: str) -> Callable[..., Route]:
    def declare(path: str, endpoint: type[Message[Any]] | Handler, **options: Any) -> Route:
        return Route(method, path, endpoint, **options)

    return declare


get, post, put, patch, delete = map(_declare, ("GET", "POST", "PUT", "PATCH", "DELETE"))


def not_built(method: str, path: str, scope: str | None, *, is_exempt: bool = False, at_root: bool = False) -> Route:
    """Declare an endpoint that is in the contract, and answers 501 until its piece of work comes."""

    async def refuse() -> Response:
        """Not built yet."""
        raise NotBuilt(f"{method} {path} is not built yet")

    return Route(
        method,
        path,
        refuse,
        scope=scope,
        is_exempt=is_exempt,
        at_root=at_root,
        status=HTTPStatus.NOT_IMPLEMENTED,
        is_built=False,
    )
