"""The Quart-Trio application: requests to calls, calls to routes, failures to responses.

Quart gives the requests, responses and the URL map. Its dispatch is replaced: it would open a nursery, two tasks, two
contexts and a session for each request, which costs more than all the rest of a small answer, and nothing here needs
them. A handler is given its `Call`; there are no context globals (`quart.request`).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterable
from http import HTTPStatus
from typing import TYPE_CHECKING, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, HTTPScope
from quart import Response
from quart.routing import QuartRule
from quart.wrappers.response import DataBody
from quart_trio import QuartTrio
from quart_trio.asgi import TrioASGIHTTPConnection
from werkzeug.exceptions import MethodNotAllowed as NoSuchMethod
from werkzeug.exceptions import NotFound as NoSuchPath
from werkzeug.routing import RequestRedirect

from ..actors.access.guard import Verdict
from ..runtime import ActorSystem
from ..runtime.errors import NotFound, PocketPawError
from . import cors
from .asgi_response import AsgiResponse
from .audited import auditing
from .authentication import check, facts, limit_headers, require_scope, until_ended
from .call import ANYBODY, Call, cancel_on_disconnect
from .errors import InternalError, MethodNotAllowed, error_response
from .route import Route
from .traffic import Traffic
from .transport import ClientDisconnected
from .websocket import WebSocketConnection

if TYPE_CHECKING:
    from ..actors.settings import LiveSettings

Report = Callable[[BaseException, str], None]
"""Takes what nobody expected, and the request's trace id; must not raise."""

SECURITY = ((b"vary", b"Origin"), (b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))


class HttpConnection(TrioASGIHTTPConnection):
    """One request, in its connection's own task. Only a streamed response gets a second one, to notice that the client
    went away."""

    app: App
    scope: HTTPScope

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        request = self._create_request_from_scope(send)
        call = Call(self.app.system, self.app.live, request, receive)
        response = await self.app.respond(call, self.scope)
        self.app.traffic.count(call.route, response.status_code)
        if isinstance(response, AsgiResponse):
            await response.write(self.scope, receive, send, self.app.common_headers(call))
            return
        headers = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in response.headers]
        headers += self.app.common_headers(call)
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        body = response.response
        if isinstance(body, DataBody):
            await send({"type": "http.response.body", "body": body.data, "more_body": False})
        elif request.method == "HEAD":
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        else:
            is_endless = call.route is not None and call.route.is_endless
            await self._stream(response, receive, send, call.verdict, is_endless=is_endless)

    async def _stream(
        self,
        response: Response,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        verdict: Verdict | None,
        *,
        is_endless: bool,
    ) -> None:
        body = response.response
        async with body, trio.open_nursery() as nursery:
            await send({"type": "http.response.body", "body": b"", "more_body": True})  # the head goes out at once
            nursery.start_soon(cancel_on_disconnect, receive, nursery.cancel_scope)
            with trio.CancelScope() as streaming:
                if is_endless:
                    nursery.start_soon(self.app.cancel_on_stop, streaming)
                    if verdict is not None and verdict.credential:
                        nursery.start_soon(self.app.cancel_on_end, verdict, streaming)
                async for data in cast("AsyncIterable[bytes]", body):
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()


class Rule(QuartRule):
    """A path that requests are matched with. No URL is ever built of it, so the code for that, 0.3 ms each, is not."""

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return _build_nothing


def _build_nothing(*_: object) -> tuple[str, str]:
    raise NotImplementedError("no URLs are built of the paths that requests are matched with")


class App(QuartTrio):
    """Holds nothing between requests but what it was made with, and counts."""

    asgi_http_class = HttpConnection
    asgi_websocket_class = WebSocketConnection

    def __init__(self, system: ActorSystem, live: LiveSettings, routes: Iterable[Route], report: Report) -> None:
        super().__init__(__name__, static_folder=None)
        self.system = system
        self.live = live
        self.report = report
        self.traffic = Traffic()
        self._routes: dict[str, Route] = {}
        self.url_map.merge_slashes = False
        for route in routes:
            for path in route.mounts:
                self._mount(route, path)
        self._paths = self.url_map.bind("localhost")
        self._is_stopping = trio.Event()

    def end_streams(self) -> None:
        """End the streams that would not end by themselves: the server is about to stop."""
        self._is_stopping.set()

    async def cancel_on_stop(self, scope: trio.CancelScope) -> None:
        await self._is_stopping.wait()
        scope.cancel()

    async def cancel_on_end(self, verdict: Verdict, scope: trio.CancelScope) -> None:
        """Cancel `scope` when the credential of whoever was let in is revoked."""
        await until_ended(self.system, verdict)
        scope.cancel()

    def _mount(self, route: Route, path: str) -> None:
        name = f"{route.method} {path}"
        if name in self._routes:
            raise ValueError(f"{name} is declared twice")
        self._routes[name] = route
        rule = path.replace("{path}", "<path:path>").replace("{", "<").replace("}", ">")
        self.url_map.add(Rule(rule, endpoint=name, methods=[route.method]))

    async def respond(self, call: Call, scope: HTTPScope) -> Response:
        """Answer a request, whatever happens. A failure that nobody expected is reported, and is this request's own."""
        try:
            return await self._respond(call, scope)
        except PocketPawError as error:
            return error_response(error)
        except ClientDisconnected:
            raise  # there is nobody to answer
        except Exception as error:  # noqa: BLE001 - one request's failure is not the connection's
            self.report(error, call.trace_id)
            detail = "something failed that should not; the log and health/errors say what, under this request id"
            return error_response(InternalError(detail, request_id=call.trace_id))

    def common_headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        """What every response carries."""
        origin = call.request.headers.get("Origin")
        headers = [(b"x-request-id", call.trace_id.encode("ascii")), *SECURITY]
        if call.verdict is not None:
            headers += limit_headers(call.verdict)
        if origin is not None:
            headers += cors.allow(origin, self.live.current.api_cors_allowed_origins)
        return headers

    async def judge(self, call: Call, scope: HTTPScope, route: Route | None) -> Verdict:
        """Ask the guard, once. What has no route needs a credential like everything else."""
        asked = facts(
            scope,
            bucket="api" if route is None else route.bucket,
            required=route is None or not route.is_exempt,
        )
        return await self.system.ask(asked, principal=ANYBODY, trace_id=call.trace_id, sender="http")

    async def _respond(self, call: Call, scope: HTTPScope) -> Response:
        if cors.is_preflight(call.request):
            return cors.preflight(call.request, self.live.current.api_cors_allowed_origins)
        route = problem = None
        try:
            name, call.values = self._paths.match(call.request.path, method=call.request.method)
            call.route = route = self._routes[name]
        except NoSuchMethod as error:
            text = f"{call.request.method} is not allowed at {call.request.path}"
            problem = MethodNotAllowed(text, allowed=error.valid_methods or ())
        except (NoSuchPath, RequestRedirect):
            problem = NotFound(f"there is nothing at {call.request.path}")
        if route is None or not (route.is_exempt and route.bucket == "api"):
            call.verdict = verdict = await self.judge(call, scope, route)
            check(verdict)
            if verdict.principal is not None:
                call.principal = verdict.principal
            if problem is not None:
                raise problem
        assert route is not None
        call.attempt = attempt = route.attempt(call.trace_id, _peer(scope))
        if attempt is None:
            return await _admit(call, route)
        attempt.who = call.principal
        attempt.facts |= call.values
        async with auditing(self.system, attempt):
            response = await _admit(call, route)
            if response.status_code >= HTTPStatus.BAD_REQUEST:
                attempt.status = "refused"
        return response


async def _admit(call: Call, route: Route) -> Response:
    if not route.is_exempt:
        require_scope(call.principal, route.scope)
    return await route.answer(call)


def _peer(scope: HTTPScope) -> str | None:
    client = scope["client"]
    return client[0] if client else None
