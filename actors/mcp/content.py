"""What a server says, as the model reads it: tools, results and resources as text."""

from __future__ import annotations

import json
from collections.abc import Iterable

import mcp_types as types
import msgspec

from ..tools.protocol import ToolInfo, ToolOutput
from .naming import tool_name

OUTPUT_LIMIT = 50_000
DESCRIPTION_LIMIT = 10_000
SCHEMA_LIMIT_BYTES = 100_000


def tool_info(server: str, tool: types.Tool, address: str) -> ToolInfo | None:
    """A server's tool as one of ours; None if its schema is too large or holds what no message can carry."""
    description = (tool.description or tool.title or tool.name)[:DESCRIPTION_LIMIT]
    is_read_only = tool.annotations is not None and tool.annotations.read_only_hint is True
    info = ToolInfo(
        name=tool_name(server, tool.name),
        description=description,
        parameters={**tool.input_schema, "type": "object"},
        address=address,
        effect="read" if is_read_only else "execute",
        scope="mcp",
        source=f"mcp {server}",
    )
    try:
        size = len(msgspec.msgpack.encode(info))
    except (OverflowError, TypeError, ValueError, RecursionError):
        return None
    return info if size <= SCHEMA_LIMIT_BYTES else None


def tool_output(result: types.CallToolResult, source: str) -> ToolOutput:
    """A call's result as text; structured content only where there is no other, as it is the same once more."""
    text = "\n".join(filter(None, map(_block, result.content)))
    if not text and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    return ToolOutput(shortened(text or "(no output)"), is_error=result.is_error is True, source=source)


def resource_text(contents: Iterable[types.TextResourceContents | types.BlobResourceContents]) -> str:
    return shortened("\n".join(map(_resource, contents)))


def shortened(text: str) -> str:
    """Cut what is too long for a model, and say so."""
    if len(text) <= OUTPUT_LIMIT:
        return text
    left_out = len(text) - OUTPUT_LIMIT
    return f"{text[:OUTPUT_LIMIT]}\n[{left_out} more characters were left out: ask for less at once to see them]"


def _block(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent():
            return block.text
        case types.ImageContent():
            return f"[an image, {block.mime_type}, {_size(block.data)}]"
        case types.AudioContent():
            return f"[a sound, {block.mime_type}, {_size(block.data)}]"
        case types.ResourceLink():
            about = block.description or block.title or block.name
            return f"[a resource: {block.uri}, {about}]"
        case types.EmbeddedResource():
            return _resource(block.resource)


def _resource(contents: types.TextResourceContents | types.BlobResourceContents) -> str:
    if isinstance(contents, types.TextResourceContents):
        return f"{contents.uri}:\n{contents.text}"
    return f"[{contents.uri}: {contents.mime_type or 'binary'}, {_size(contents.blob)}]"


def _size(base64: str) -> str:
    return f"{len(base64) * 3 // 4 / 1024:.1f} KB"
