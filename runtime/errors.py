"""Every failure that is an answer rather than a crash.

An actor that raises one of these answers its asker and lives on; any other exception answers the asker *and* crashes
the actor, whose supervisor then decides. They cross actor boundaries as data: `code`, `detail` and `data`.

    PocketPawError
    ├─ InvalidInput           a field has the wrong type, is missing, or breaks a bound (names the field)
    ├─ BadRequest             the request as a whole makes no sense here
    ├─ Unauthenticated        no credential, or one that is unknown or expired
    ├─ Forbidden              a credential without the scope that this needs
    ├─ NotFound               no such session, route, actor, …
    ├─ Conflict               it clashes with what is there
    ├─ TooLarge               over a size limit
    ├─ UnsupportedMedia       not a content type that is read here
    ├─ TooManyRequests        over a rate limit (data: retry_after_s)
    ├─ NotBuilt               named by the contract, not built yet
    ├─ Unavailable            cannot be done now; says what has to change
    ├─ TimedOut               the work goes on but did not end in time
    ├─ TransientFailure       may pass by itself: the supervisor retries with backoff
    ├─ NeedsOperator          only a person can mend it (credential, configuration): the supervisor parks at once
    └─ DeliveryFailure        the message was not answered
       ├─ NoSuchActor         nobody has that address
       ├─ ActorDied           its actor crashed, stopped or was restarted with the message in hand
       ├─ AskTimeout          its deadline passed
       └─ MailboxFull         its actor's mailbox has no room
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import msgspec

type_registry: dict[str, type[PocketPawError]] = {}


class PocketPawError(Exception):
    """An expected failure.

    `detail` is a sentence for the person who asked; `data` holds what a program needs of it (JSON-shaped).
    """

    code: ClassVar[str] = "error"

    def __init__(self, detail: str, **data: object) -> None:
        super().__init__(detail)
        self.detail = detail
        self.data: Mapping[str, object] = data

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.code in type_registry:
            raise TypeError(f"error code {cls.code!r} is taken by {type_registry[cls.code].__name__}")
        type_registry[cls.code] = cls

    def to_wire(self) -> tuple[str, str, dict[str, object]]:
        """Its code, detail and data, the data JSON-shaped and shared with nobody."""
        return self.code, self.detail, msgspec.to_builtins(dict(self.data), enc_hook=str)

    @staticmethod
    def from_wire(code: str, detail: str, data: Mapping[str, object]) -> PocketPawError:
        """Rebuild an error that crossed an actor boundary; an unknown code gives the base class."""
        return type_registry.get(code, PocketPawError)(detail, **data)


class InvalidInput(PocketPawError):
    """`field` is where it stands, as a path: `["body", "content"]`."""

    code = "invalid_input"


class BadRequest(PocketPawError):
    code = "bad_request"


class Unauthenticated(PocketPawError):
    code = "unauthenticated"


class Forbidden(PocketPawError):
    code = "forbidden"


class NotFound(PocketPawError):
    code = "not_found"


class Conflict(PocketPawError):
    code = "conflict"


class TooLarge(PocketPawError):
    code = "too_large"


class UnsupportedMedia(PocketPawError):
    code = "unsupported_media"


class TooManyRequests(PocketPawError):
    code = "too_many_requests"


class NotBuilt(PocketPawError):
    code = "not_built"


class Unavailable(PocketPawError):
    code = "unavailable"


class TimedOut(PocketPawError):
    code = "timed_out"


class TransientFailure(PocketPawError):
    code = "transient_failure"


class NeedsOperator(PocketPawError):
    code = "needs_operator"


class DeliveryFailure(PocketPawError):
    code = "delivery_failure"


class NoSuchActor(DeliveryFailure):
    code = "no_such_actor"


class ActorDied(DeliveryFailure):
    code = "actor_died"


class AskTimeout(DeliveryFailure):
    code = "ask_timeout"


class MailboxFull(DeliveryFailure):
    code = "mailbox_full"
