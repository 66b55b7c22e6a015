"""A response that somebody else's ASGI application writes, in the request's own task."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, cast

from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, HTTPScope
from quart import Response

AsgiApp = Callable[[Any, Any, Any], Awaitable[None]]
"""In Starlette's types, which are not Hypercorn's."""


class AsgiResponse(Response):
    """`body` is the request's, which has been read already."""

    def __init__(self, app: AsgiApp, body: bytes) -> None:
        super().__init__(b"")
        self._app = app
        self._request_body = body

    async def write(
        self,
        scope: HTTPScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
        headers: list[tuple[bytes, bytes]],
    ) -> None:
        """Run the application; `headers` are added to its own."""
        is_read = False

        async def receive_again() -> Any:
            nonlocal is_read
            if is_read:
                return await receive()
            is_read = True
            return {"type": "http.request", "body": self._request_body, "more_body": False}

        async def send_more(event: Any) -> None:
            if event["type"] == "http.response.start":
                event = {**event, "headers": [*event.get("headers", ()), *headers]}
            await send(cast("ASGISendEvent", event))

        await self._app(scope, receive_again, send_more)
