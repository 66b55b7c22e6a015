"""The WebSocket's handshake: where it is, who asks, and what they are told before they are let in."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, WebsocketScope
from quart.wrappers.response import DataBody

from ..actors.access.guard import Verdict
from ..runtime.errors import NotFound, PocketPawError
from .authentication import check, facts, until_ended
from .call import ANYBODY, trace_id_from
from .conversation import Conversation, Opening
from .errors import error_response
from .transport import ClientDisconnected

if TYPE_CHECKING:
    from .app import App

PATHS = ("/ws", "/v1/ws", "/api/v1/ws")
SCOPE = "chat"

# Close codes: https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1; 4000 and above are the application's.
INTERNAL_ERROR = 1011
UNAUTHENTICATED = 4401
FORBIDDEN = 4403


class WebSocketConnection:
    """One WebSocket, in one task of its own."""

    def __init__(self, app: App, scope: WebsocketScope) -> None:
        self._app = app
        self._scope = scope
        headers = dict(scope["headers"])
        self._trace_id = trace_id_from(headers.get(b"x-request-id", b"").decode("latin1"))

    async def __call__(self, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        await receive()  # websocket.connect
        try:
            verdict = await self._judge()
        except PocketPawError as error:
            await self._refuse(error, send)
            return
        await self._accept(verdict.subprotocol, send)
        if verdict.principal is None:
            await _close(send, UNAUTHENTICATED, verdict.reason)
        elif not verdict.principal.may(SCOPE):
            await _close(send, FORBIDDEN, f"Missing required scope: {SCOPE}")
        else:
            await self._converse(verdict, receive, send)

    async def _judge(self) -> Verdict:
        """Raises what is answered instead of the handshake; a missing credential is told after it, as a close code."""
        if self._scope["path"] not in PATHS:
            raise NotFound(f"there is no WebSocket at {self._scope['path']}")
        asked = facts(self._scope, bucket="ws", required=True)
        verdict = await self._app.system.ask(asked, principal=ANYBODY, trace_id=self._trace_id, sender="http")
        if verdict.outcome != "unauthenticated":
            check(verdict)
        return verdict

    async def _converse(self, verdict: Verdict, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        assert verdict.principal is not None
        opening = Opening.read(self._scope["query_string"])
        try:
            async with trio.open_nursery() as nursery:
                if verdict.credential:
                    nursery.start_soon(self._close_when_ended, verdict, send, nursery.cancel_scope)
                await Conversation(self._app.system, verdict.principal, self._trace_id, send, nursery).run(
                    receive, opening
                )
                nursery.cancel_scope.cancel()
        except* ClientDisconnected:
            pass  # it left while something was being sent
        except* Exception as group:  # noqa: BLE001 - one socket's failure is that socket's own
            self._app.report(_only(group), self._trace_id)
            await _close(send, INTERNAL_ERROR, f"something failed that should not (request {self._trace_id})")

    async def _close_when_ended(self, verdict: Verdict, send: ASGISendCallable, conversation: trio.CancelScope) -> None:
        await until_ended(self._app.system, verdict)
        await _close(send, UNAUTHENTICATED, "the credential has been revoked")
        conversation.cancel()

    async def _accept(self, subprotocol: str | None, send: ASGISendCallable) -> None:
        headers = [(b"x-request-id", self._trace_id.encode("ascii"))]
        await send({"type": "websocket.accept", "subprotocol": subprotocol, "headers": headers})

    async def _refuse(self, error: PocketPawError, send: ASGISendCallable) -> None:
        response = error_response(error)
        headers = [(name.lower().encode("latin1"), value.encode("latin1")) for name, value in response.headers]
        headers.append((b"x-request-id", self._trace_id.encode("ascii")))
        assert isinstance(response.response, DataBody)
        await send({"type": "websocket.http.response.start", "status": response.status_code, "headers": headers})
        await send({"type": "websocket.http.response.body", "body": response.response.data, "more_body": False})


async def _close(send: ASGISendCallable, code: int, reason: str) -> None:
    try:
        await send({"type": "websocket.close", "code": code, "reason": reason[:120]})  # a close frame holds 123 bytes
    except ClientDisconnected:
        pass  # it was faster


def _only(group: ExceptionGroup[Exception]) -> Exception:
    """The one exception inside, if there is only one."""
    first, *others = list[Exception](group.exceptions)
    if others:
        return group
    return _only(cast("ExceptionGroup[Exception]", first)) if isinstance(first, ExceptionGroup) else first
