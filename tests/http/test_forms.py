from __future__ import annotations

from typing import cast

import msgspec
import pytest
from pocketpaw.http.call import Call
from pocketpaw.http.forms import FIELDS_LIMIT, read_fields
from pocketpaw.runtime.errors import InvalidInput, UnsupportedMedia

FORM = "application/x-www-form-urlencoded"


class Fields(msgspec.Struct, frozen=True):
    name: str
    age: int | None = None


class Sent:
    """A request's body, and what it says that it is."""

    def __init__(self, body: bytes, content_type: str | None) -> None:
        self.request = self
        self.headers = {} if content_type is None else {"Content-Type": content_type}
        self._body = body

    async def body(self) -> bytes:
        return self._body


async def read(body: bytes, content_type: str | None = FORM) -> Fields:
    return await read_fields(cast("Call", Sent(body, content_type)), Fields)


async def test_a_form_and_json_say_the_same() -> None:
    expected = Fields("Ann & Bob é", 7)
    assert await read(b"name=Ann+%26+Bob+%C3%A9&age=7&more=1&more=2") == expected
    assert await read("name=Ann+%26+Bob+é&age=7".encode(), f"{FORM}; charset=utf-8") == expected
    for content_type in ("application/json", None):
        assert await read('{"name":"Ann & Bob é","age":7,"more":1}'.encode(), content_type) == expected


@pytest.mark.parametrize(
    "body",
    [b"", b"age=7", b"name=x&age=old", b"name=x&name=y", b"name=%FF", b"name=\xff", b"name=x" + b"&a=b" * FIELDS_LIMIT],
)
async def test_a_form_that_is_wrong_is_told_so(body: bytes) -> None:
    with pytest.raises(InvalidInput):
        await read(body)


async def test_nothing_else_is_read() -> None:
    with pytest.raises(UnsupportedMedia):
        await read(b"name=x", "text/plain")
    with pytest.raises(InvalidInput):
        await read(b"name=x", "application/json")
