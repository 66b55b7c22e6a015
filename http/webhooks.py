"""Webhooks: their management, and the one door by which other programs call them."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

import msgspec
import trio
from quart import Response

from ..actors.webhooks.proof import Proof
from ..actors.webhooks.webhooks import (
    AddWebhook,
    DeliverWebhook,
    ListWebhooks,
    RegenerateWebhookSecret,
    RemoveWebhook,
    WebhookView,
)
from ..runtime.errors import TimedOut
from .address import base_url
from .audited import Audited
from .call import Call
from .chat import whole_reply
from .route import JSON, get, post

BODY_LIMIT_BYTES = 1024 * 1024
INBOUND = "/webhook/inbound"

DELIVERY_HEADERS = ("X-GitHub-Delivery", "X-Gitea-Delivery", "Webhook-Id", "Idempotency-Key")
"""Which name a delivery, besides X-Webhook-Id: the first that is there counts."""

EVENT_HEADERS = ("X-Webhook-Event", "X-GitHub-Event", "X-Gitlab-Event", "X-Gitea-Event")


class Webhook(WebhookView, frozen=True):
    """`url` is where it is called, under the name by which you have reached this daemon."""

    url: str


class WebhookList(msgspec.Struct, frozen=True):
    webhooks: list[Webhook]


class WebhookMade(msgspec.Struct, frozen=True):
    """The only answer with the secret."""

    status: str
    webhook: Webhook


class Inbound(msgspec.Struct, frozen=True):
    """`wait` asks for the agent's reply."""

    name: str
    wait: bool = False


class WebhookAccepted(msgspec.Struct, frozen=True):
    """`request_id` is the turn's; the same for a repeat of the same delivery."""

    status: str
    request_id: str


class WebhookReply(msgspec.Struct, frozen=True):
    status: str
    response: str


async def list_webhooks(call: Call) -> WebhookList:
    """List the webhooks, their secrets masked."""
    return WebhookList([_with_url(call, view) for view in await call.ask(ListWebhooks())])


async def add_webhook(call: Call, message: AddWebhook) -> WebhookMade:
    """Make a webhook. Its secret is in this answer, and in no later one.

    `description` tells the agent what to do with what comes. `sync_timeout` is how long a caller with `?wait=true`
    waits at most, in seconds; by default it is the setting `webhook_sync_timeout`.
    """
    return WebhookMade("ok", _with_url(call, await call.ask(message)))


async def regenerate_secret(call: Call, message: RegenerateWebhookSecret) -> WebhookMade:
    """Give a webhook a new secret, shown in this answer only; the old one stops working at once."""
    return WebhookMade("ok", _with_url(call, await call.ask(message)))


async def call_webhook(call: Call, message: Inbound) -> Response:
    """Tell the agent something, in the webhook's own session; the body may be anything, and is data to the agent.

    Send the webhook's secret as `X-Webhook-Secret`; or, without showing it, as `X-Webhook-Signature` (or
    `X-Hub-Signature-256`) the hexadecimal HMAC-SHA256 of the raw body under it, with or without `sha256=` before it. So
    that nobody can send it again, also send the time as `X-Webhook-Timestamp`, in Unix seconds: it has to be within 5
    minutes of the daemon's, and `X-Webhook-Signature` is then of `TIMESTAMP.BODY`, or with an `X-Webhook-Id` of
    `ID.TIMESTAMP.BODY`.

    202 says that it is on disk. A delivery that comes again within 24 hours under the same id is taken once, and
    answered as the first time. The id is `X-Webhook-Id`, or where no time is signed `X-GitHub-Delivery`,
    `X-Gitea-Delivery`, `Webhook-Id` or `Idempotency-Key`.

    With `?wait=true` the answer is the agent's reply, or 504 with the `request_id` if that takes too long: the turn
    goes on, and its reply lands in the session `webhook:NAME`.
    """
    begun = trio.current_time()
    body = await call.body(BODY_LIMIT_BYTES)
    delivery = DeliverWebhook(name=message.name, body=body, proof=_proof(call), event=_first(call, EVENT_HEADERS))
    delivered = await call.ask(delivery)
    accepted = delivered.accepted
    if not message.wait:
        return _json(WebhookAccepted("accepted", accepted.turn_id), HTTPStatus.ACCEPTED)
    reply = await whole_reply(call, accepted, begun + delivered.sync_timeout)
    if reply is None:
        text = f"the reply is not whole after {delivered.sync_timeout} s; it will be in the session's history"
        raise TimedOut(text, session_id=accepted.session_id, request_id=accepted.turn_id)
    return _json(WebhookReply("ok", reply.content), HTTPStatus.OK)


def _proof(call: Call) -> Proof:
    headers = call.request.headers
    return Proof(
        secret=headers.get("X-Webhook-Secret"),
        signature=headers.get("X-Webhook-Signature"),
        hub_signature=headers.get("X-Hub-Signature-256"),
        timestamp=headers.get("X-Webhook-Timestamp"),
        webhook_id=headers.get("X-Webhook-Id"),
        delivery_id=_first(call, DELIVERY_HEADERS),
    )


def _first(call: Call, names: Iterable[str]) -> str | None:
    return next((call.request.headers[name] for name in names if name in call.request.headers), None)


def _with_url(call: Call, view: WebhookView) -> Webhook:
    return Webhook(**msgspec.structs.asdict(view), url=f"{base_url(call)}{INBOUND}/{view.name}")


def _json(answer: msgspec.Struct, status: HTTPStatus) -> Response:
    return Response(msgspec.json.encode(answer), status.value, content_type=JSON)


_TEXT: dict[str, object] = {"type": "string"}
_PROOF = ("X-Webhook-Secret", "X-Webhook-Signature", "X-Hub-Signature-256", "X-Webhook-Timestamp", "X-Webhook-Id")
_HEADERS = dict.fromkeys((*_PROOF, *DELIVERY_HEADERS, *EVENT_HEADERS), _TEXT)
_ANSWERS: dict[HTTPStatus, tuple[str, Any]] = {
    HTTPStatus.OK: ("The agent's reply, which was waited for.", WebhookReply),
    HTTPStatus.ACCEPTED: ("It is on disk, and the agent will see to it.", WebhookAccepted),
}
SCOPE = "channels"
ROUTES = [
    get("/webhooks", list_webhooks, scope=SCOPE),
    post("/webhooks/add", add_webhook, scope=SCOPE),
    post("/webhooks/remove", RemoveWebhook, scope=SCOPE),
    post("/webhooks/regenerate-secret", regenerate_secret, scope=SCOPE),
    post(
        f"{INBOUND}/{{name}}",
        call_webhook,
        at_root=True,
        is_exempt=True,
        bucket="webhook",
        takes_anything=True,
        audit=Audited("webhooks", refusals_only=True),  # a call that is taken is a turn
        status=HTTPStatus.ACCEPTED,
        responses=_ANSWERS,
        headers=_HEADERS,
    ),
]
