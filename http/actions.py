"""What a WebSocket's client may ask for that is an endpoint as well: the same message, and the same scope.

Each is a line of `ACTIONS`: the endpoint, and PocketPaw's name and form for the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from ..actors.files.keeper import FolderListing
from ..actors.settings import Changed
from ..runtime import Message
from ..runtime.errors import InvalidInput, PocketPawError
from . import events, files, health, intentions, reminders, sessions, settings, skills
from .errors import invalid_input
from .route import Route

JsonObject = dict[str, object]
Told = Callable[[Any, JsonObject], JsonObject]
"""Makes what the client is told of the reply, or of the failure, to what it has asked for with these fields."""

_ROUTES: Mapping[tuple[str, str], Route] = {
    (route.method, route.path): route
    for noun in (events, files, health, intentions, reminders, sessions, settings, skills)
    for route in noun.ROUTES
    if not route.at_root
}


def scope_of(method: str, path: str) -> str | None:
    """The scope that the endpoint needs."""
    return _ROUTES[method, path].scope


class Action:
    """`make` is for a message that is not simply made of the client's fields; of `id_of`, what is called `id` here."""

    def __init__(
        self,
        method: str,
        path: str,
        told: Told | None,
        *,
        failed: Told | None = None,
        make: Callable[[JsonObject], Message[Any]] | None = None,
        id_of: str | None = None,
    ) -> None:
        route = _ROUTES[method, path]
        self.scope = route.scope
        self.attempt = route.attempt
        self.told = told
        """None where the client is told by an event, as all are."""
        self.failed = failed
        """None where it is told of a failure as of any other."""
        self._message_type = None if route.message is None else route.message.message_type
        self._make = make
        self._id_name = f"{id_of}_id" if id_of is not None else None

    def message(self, fields: JsonObject) -> Message[Any]:
        """Make the message; raises InvalidInput, which names the field."""
        if self._make is not None:
            return self._make(fields)
        if self._id_name is not None:
            fields = {**_updates(fields), self._id_name: _required(fields, "id")}
        try:
            return msgspec.convert(fields, self._message_type)
        except msgspec.ValidationError as error:
            raise invalid_input(error, "message") from None


def _saved(changed: Changed, _: JsonObject) -> JsonObject:
    warnings = [f"{name} takes effect at the next start" for name in changed.restart_needed]
    warnings += [f"{name} is overridden from outside the file" for name in changed.overridden]
    content = f"Settings changed: {', '.join(changed.updated)}" if changed.updated else "Nothing had to be changed"
    return {"type": "settings_saved", "content": content, "updated": changed.updated, "warnings": warnings}


def _listed(listing: FolderListing, fields: JsonObject) -> JsonObject:
    told = {"type": "files", "path": listing.path, "files": listing.files, "error": listing.error}
    return {**told, **_context(fields)}


def _not_listed(error: PocketPawError, fields: JsonObject) -> JsonObject:
    return {"type": "files", "error": error.detail, "code": error.code, **_context(fields)}


def _as_text(listing: FolderListing, _: JsonObject) -> JsonObject:
    files = [f"{one.name}/" if one.is_dir else f"{one.name} ({one.size})" for one in listing.files]
    return {"type": "message", "content": "\n".join([f"**{listing.path}**", "", *files])}


def _not_listed_as_text(error: PocketPawError, _: JsonObject) -> JsonObject:
    return {"type": "message", "content": error.detail, "code": error.code}


def _context(fields: JsonObject) -> JsonObject:
    """What a client gives to know the answer by."""
    return {"context": fields["context"]} if "context" in fields else {}


def _no_reminder(error: PocketPawError, _: JsonObject) -> JsonObject:
    return {"type": "reminder_error", "content": error.detail, "code": error.code}


def _updates(fields: JsonObject) -> JsonObject:
    """What is to be changed: `updates`, or the fields themselves."""
    updates = fields.get("updates")
    return cast("JsonObject", updates) if isinstance(updates, dict) else fields


def _required(fields: JsonObject, name: str) -> object:
    if name not in fields:
        raise InvalidInput("the field is required", field=[name])
    return fields[name]


def _told(type_: str, content: str, field: str | None = None) -> Told:
    """The reply, or one field of it, under a name."""
    return lambda reply, _: {"type": type_, content: reply if field is None else getattr(reply, field)}


_INTENTION = "/intentions/{intention_id}"
ACTIONS: Mapping[str, Action] = {
    "get_settings": Action("GET", "/settings", _told("settings", "content")),
    "settings": Action("PUT", "/settings", _saved, make=settings.wanted_changes),
    "get_health": Action("GET", "/health", _told("health_update", "data")),
    "run_health_check": Action("POST", "/health/check", None),
    "get_health_errors": Action("GET", "/health/errors", _told("health_errors", "errors")),
    "get_skills": Action("GET", "/skills", _told("skills", "skills")),
    "get_reminders": Action("GET", "/reminders", _told("reminders", "reminders", "reminders")),
    "add_reminder": Action("POST", "/reminders", _told("reminder_added", "reminder", "reminder"), failed=_no_reminder),
    "delete_reminder": Action(
        "DELETE",
        "/reminders/{reminder_id}",
        _told("reminder_deleted", "id", "id"),
        failed=_no_reminder,
        id_of="reminder",
    ),
    "get_intentions": Action("GET", "/intentions", _told("intentions", "intentions", "intentions")),
    "create_intention": Action("POST", "/intentions", _told("intention_created", "intention", "intention")),
    "update_intention": Action(
        "PATCH", _INTENTION, _told("intention_updated", "intention", "intention"), id_of="intention"
    ),
    "toggle_intention": Action(
        "POST", f"{_INTENTION}/toggle", _told("intention_toggled", "intention", "intention"), id_of="intention"
    ),
    "delete_intention": Action("DELETE", _INTENTION, _told("intention_deleted", "id", "id"), id_of="intention"),
    "run_intention": Action("POST", f"{_INTENTION}/run", None, id_of="intention"),
    "browse": Action("GET", "/files/browse", _listed, failed=_not_listed),
    "navigate": Action("GET", "/files/browse", _as_text, failed=_not_listed_as_text),
}
