"""The router: picks the backend for a generation, and the next one when it fails before it has said anything."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from ...config import Settings
from ...runtime import Actor, Message
from ...runtime.errors import ActorDied, PocketPawError, Unavailable
from .abilities import suited_to
from .breaker import Breaker, BreakerState
from .catalogue import Configured, Selection, configured
from .embedded_worker import CONTEXT_TOKENS, DEFAULT_MAX_TOKENS, find_model
from .prices import Prices
from .protocol import Generate, GenerationEvent, Usage
from .window import fit

if TYPE_CHECKING:
    from .connections import Connections
    from .opening import Opened

EMBEDDED = "models/embedded"

EMBEDDED_ATTEMPTS = 3
"""Its process may be killed; a fresh one is there in half a second."""

SERVER_WINDOW_TOKENS = 32_768
"""What a model behind a server is taken to read; it says so itself when that is too much."""

CHECK_TIMEOUT_S = 10.0

CLOSE_S = 0.5
"""To close connections; less than what a kill leaves to unwind."""


class BackendState(msgspec.Struct, frozen=True):
    """One configured backend; `detail` says why it is not available.

    `breaker` is open while it is left alone because it failed too often, and half_open when one request may try it.
    """

    name: str
    model: str
    available: bool
    detail: str
    latency_ms: float
    breaker: BreakerState = "closed"
    failures: int = 0
    """In a row, up to now."""


class CheckBackends(Message[list[BackendState]], to="models/router"):
    """Try to reach every configured backend, in the order in which they are asked when somebody chats."""


class SettingsSource(Protocol):
    @property
    def current(self) -> Settings: ...


class Router(Actor):
    """Streams each generation from the first backend that can, `max_concurrent_conversations` at a time.

    Rules choose who is first, and one that keeps failing is left alone for a while. Tools and images are only passed to
    those that can use them.

    Those that wait are served in their order; as a session has one turn at a time, none can push the others aside.
    A backend that has begun is not replaced: what was said cannot be taken back.
    """

    handler_timeout_s = None  # a turn has its own limit
    has_tasks = True
    concurrency = 10_000  # a check does not wait behind generations; those have a limit of their own

    def __init__(self, live: SettingsSource) -> None:
        super().__init__()
        self._room = trio.CapacityLimiter(live.current.max_concurrent_conversations)
        self._live = live
        self._client: Connections | None = None
        self._opened: dict[tuple[Configured, bool], Opened] = {}
        self._breakers: dict[Configured, Breaker] = {}
        self._settings: Settings | None = None
        self._selection = Selection(())
        self._prices = Prices({})

    async def generate(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        """Stream from the first backend that begins; the next one is asked only where nothing has been said."""
        self._room.total_tokens = self._live.current.max_concurrent_conversations
        async with self._room:
            selection = self._select()
            backends, breakers = selection.order_for(message, self._prices), self._breakers
            failures = list(selection.problems)
            for backend in backends:
                has_begun = False
                has_fallback = backend is not backends[-1]
                try:
                    with breakers[backend].attempt(has_fallback=has_fallback):
                        async with aclosing(self._ask(backend, message, has_fallback=has_fallback)) as events:
                            async for event in events:
                                has_begun = True
                                yield self._prices.priced(event, backend.model) if isinstance(event, Usage) else event
                    return
                except PocketPawError as error:
                    if has_begun or (len(backends) == 1 and not selection.problems):
                        raise
                    failures.append(f"{backend.name}: {error.detail}")
            raise Unavailable("no model could answer. " + "; ".join(failures))

    async def check_backends(self, message: CheckBackends) -> list[BackendState]:
        backends = self._select().all_backends()
        states: dict[Configured, BackendState] = {}

        async def check(backend: Configured) -> None:
            states[backend] = await self._check(backend)

        async with trio.open_nursery() as nursery:
            for backend in backends:
                nursery.start_soon(check, backend)
        return [states[backend] for backend in backends]

    def _select(self) -> Selection:
        """The backends that the settings choose now; read anew only when they have changed."""
        settings = self._live.current
        if settings is not self._settings:
            self._settings, self._selection = settings, configured(settings)
            self._prices = Prices(settings.model_prices)
            self._opened.clear()
            known = self._breakers  # what is set up anew, be it by another key, is trusted anew
            self._breakers = {
                backend: known.get(backend) or Breaker(backend.name) for backend in self._selection.all_backends()
            }
        return self._selection

    def _ask(self, backend: Configured, message: Generate, *, has_fallback: bool) -> AsyncGenerator[GenerationEvent]:
        message = suited_to(message, backend.capabilities)
        if backend.is_embedded:
            return self._ask_embedded(message)
        window = backend.window_tokens or SERVER_WINDOW_TOKENS
        window -= message.max_tokens or backend.max_tokens or DEFAULT_MAX_TOKENS
        request = msgspec.structs.replace(message, messages=fit(message.messages, window))
        return self._open(backend, has_fallback=has_fallback).generate(request)

    async def _ask_embedded(self, message: Generate) -> AsyncGenerator[GenerationEvent]:
        """Ask the model's process; if it dies before its first word, ask the next one.

        It writes one answer at a time, so that silence may mean that others are before us.
        """
        window = CONTEXT_TOKENS - (message.max_tokens or DEFAULT_MAX_TOKENS)
        request = msgspec.structs.replace(message, messages=fit(message.messages, window))
        for attempt in range(EMBEDDED_ATTEMPTS):
            has_begun = False
            try:
                async with self.stream(
                    request, to=EMBEDDED, idle_timeout_s=self._live.current.turn_timeout_s
                ) as events:
                    async for event in events:
                        has_begun = True
                        yield event
                return
            except ActorDied:
                if has_begun or attempt == EMBEDDED_ATTEMPTS - 1:
                    raise

    async def _check(self, backend: Configured) -> BackendState:
        started = time.perf_counter()
        detail = ""
        try:
            with trio.fail_after(CHECK_TIMEOUT_S):
                if backend.is_embedded:
                    await trio.to_thread.run_sync(find_model)
                else:
                    await self._open(backend).check()
                detail = self._suspension(backend)
        except PocketPawError as error:
            detail = error.detail
        except trio.TooSlowError:
            detail = f"{backend.name} did not answer within {CHECK_TIMEOUT_S:g} s"
        latency_ms = round((time.perf_counter() - started) * 1000, 1)
        breaker = self._breakers.get(backend) or Breaker(backend.name)
        return BackendState(
            backend.name, backend.model, not detail, detail, latency_ms, breaker.state, breaker.failures
        )

    def _suspension(self, backend: Configured) -> str:
        """Why a backend that can be reached is not asked all the same."""
        breaker = self._breakers.get(backend)
        return breaker.refusal().detail if breaker is not None and breaker.state == "open" else ""

    def _open(self, backend: Configured, *, has_fallback: bool = False) -> Opened:
        """What asks `backend`; kept, as it learns how its server wants to be asked."""
        from .opening import open_backend  # here: an HTTP client is 4 MB that not everybody needs

        if self._client is None:
            from .connections import Connections

            self._client = Connections()
            self.spawn(self._close_in_the_end, self._client)
        key = (backend, has_fallback)
        if key not in self._opened:
            self._opened[key] = open_backend(backend, self._client, has_fallback=has_fallback)
        return self._opened[key]

    async def _close_in_the_end(self, client: Connections) -> None:
        """However this life ends: none of its connections outlives it."""
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(CLOSE_S, shield=True):
                await client.aclose()
