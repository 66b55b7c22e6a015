"""What a channel makes of a message whose sender may talk: the files that came with it are fetched."""

from __future__ import annotations

import msgspec
from pocketpaw.actors.channels.chat_platform import Heard


async def with_files(heard: Heard) -> Heard:
    if heard.fetch is None:
        return heard
    media, remarks = await heard.fetch()
    text = "\n".join(part for part in (heard.text, *remarks) if part)
    return msgspec.structs.replace(heard, fetch=None, media=tuple(media), text=text)
