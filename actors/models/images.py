"""Pictures for models that can see: read in a thread, and known by their first bytes rather than by their names."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
import trio

from .protocol import ChatMessage

IMAGE_LIMIT_BYTES = 5 * 1024 * 1024
"""What Anthropic takes (platform.claude.com/docs/en/build-with-claude/vision); the others take more."""

LATEST_IMAGES = 20
"""Of a conversation, that are shown again with each request."""

_KINDS = (
    (b"\x89PNG\r\n\x1a\n", b"", "image/png"),
    (b"\xff\xd8\xff", b"", "image/jpeg"),
    (b"GIF8", b"", "image/gif"),
    (b"RIFF", b"WEBP", "image/webp"),
)
"""How a file begins, what stands at its ninth byte, and what it then is."""

_threads = trio.CapacityLimiter(2)


class Image(msgspec.Struct, frozen=True):
    """A picture that can be sent; `data` is base64."""

    media_type: str
    data: str


Pictures = Mapping[str, Image | str]
"""By path, the picture, or the words that stand for one that cannot be shown."""

NO_PICTURES: Pictures = {}


async def load_images(messages: Iterable[ChatMessage]) -> Pictures:
    """Read the pictures of a conversation; one that cannot be read does not keep the others from being seen."""
    paths = [path for message in messages for path in message.images]
    if not paths:
        return NO_PICTURES
    return await trio.to_thread.run_sync(_read_all, paths, abandon_on_cancel=True, limiter=_threads)


def _read_all(paths: list[str]) -> Pictures:
    pictures: dict[str, Image | str] = dict.fromkeys(paths, "an image that was shown before")
    return pictures | {path: _read(Path(path)) for path in paths[-LATEST_IMAGES:]}


def _read(path: Path) -> Image | str:
    try:
        with path.open("rb") as file:
            content = file.read(IMAGE_LIMIT_BYTES + 1)
    except OSError as error:
        return f"the image {path.name} cannot be read: {error.strerror}"
    if len(content) > IMAGE_LIMIT_BYTES:
        return f"the image {path.name} is larger than {IMAGE_LIMIT_BYTES // 1024 // 1024} MB"
    media_type = sniff(content)
    if media_type is None:
        return f"{path.name} is no PNG, JPEG, GIF or WebP image"
    return Image(media_type, b64encode(content).decode("ascii"))


def sniff(content: bytes) -> str | None:
    """Tell an image's media type by its first bytes; None if it is none that models take."""
    for start, inner, media_type in _KINDS:
        if content.startswith(start) and content[8:].startswith(inner):
            return media_type
    return None


def shown(message: ChatMessage, pictures: Pictures) -> tuple[list[Image], str]:
    """Give the pictures that go with a message, and its words with a note on each picture that cannot be shown."""
    images: list[Image] = []
    notes: list[str] = []
    for path in message.images:
        picture = pictures[path]
        if isinstance(picture, Image):
            images.append(picture)
        else:
            notes.append(f"({picture})")
    return images, "\n".join([message.content, *notes]) if notes else message.content
