"""How a request becomes a message: which field comes from the path, which from the query, which from the body."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar, Union, get_args, get_origin

import msgspec
from werkzeug.datastructures import MultiDict

from ..runtime.errors import InvalidInput, UnsupportedMedia
from .errors import invalid_input

T = TypeVar("T", bound=msgspec.Struct)

Default = Callable[[], object]


class Part:
    """The fields that come from one place, as a struct of their own. `names` are the message's, by their wire names."""

    def __init__(self, where: str, message_type: type, fields: Iterable[msgspec.structs.FieldInfo]) -> None:
        self.where = where
        self.fields = {field.encode_name: field for field in fields}
        self.names = {wire: field.name for wire, field in self.fields.items()}
        self.lists = {wire for wire, field in self.fields.items() if _is_list(field.type)}
        self.type = _struct(f"{message_type.__name__}{where.capitalize()}", self.fields)
        self.is_required = any(field.required for field in self.fields.values())
        self._decode = msgspec.json.Decoder(self.type).decode

    def from_texts(self, texts: Mapping[str, object]) -> dict[str, object]:
        """Read values that came as text, and convert them by the fields' types."""
        try:
            return self._values(msgspec.convert(texts, self.type, strict=False))
        except msgspec.ValidationError as error:
            raise invalid_input(error, self.where) from None

    def from_query(self, args: MultiDict[str, str]) -> dict[str, object]:
        texts: dict[str, object] = {wire: args[wire] for wire in self.fields if wire in args}
        for wire in self.lists & texts.keys():  # ?topics=a,b and ?topics=a&topics=b say the same
            texts[wire] = [text for value in args.getlist(wire) for text in value.split(",") if text]
        return self.from_texts(texts)

    def from_json(self, body: bytes) -> dict[str, object]:
        if not body and not self.is_required:
            return {}
        if not body:
            body = b"{}"  # so that the first missing field is named
        return self._values(decode_json(self._decode, body))

    def _values(self, part: msgspec.Struct) -> dict[str, object]:
        values = {name: getattr(part, wire) for wire, name in self.names.items()}
        for name, value in values.items():
            if isinstance(value, datetime) and not _is_in_utc(value):
                text = "expected a time between the years 1 and 9999 of UTC"
                raise InvalidInput(text, field=[self.where, name], type="value_error")
        return values


class Binding(Generic[T]):
    """Makes a `message_type` of a request.

    Args:
        path: the fields that stand in the path.
        has_body: the fields that stand nowhere else are in the JSON body; otherwise in the query.
        query: fields that may be given in the query although there is a body (which wins).
        only: the fields that a client may set besides those in the path; by default all.
        defaults: makes the value of a required field that a client may leave out.
        wire: another name on the wire, by field.
    """

    def __init__(
        self,
        message_type: type[T],
        path: Iterable[str] = (),
        *,
        has_body: bool = False,
        query: Iterable[str] = (),
        only: Iterable[str] | None = None,
        defaults: Mapping[str, Default] | None = None,
        wire: Mapping[str, str] | None = None,
    ) -> None:
        self.message_type = message_type
        self._defaults = dict(defaults or {})
        wire = wire or {}
        path, query, only = set(path), set(query), None if only is None else set(only)
        fields = {field.name: field for field in msgspec.structs.fields(message_type)}
        if unknown := {*path, *query, *(only or ()), *self._defaults, *wire} - fields.keys():
            raise TypeError(f"{message_type.__name__} has no field {sorted(unknown)}")
        open_to_all = [name for name in fields if name not in path and (only is None or name in only)]
        in_query = [name for name in open_to_all if not has_body or name in query]
        in_body = [name for name in open_to_all if has_body]

        def part(where: str, names: Iterable[str]) -> Part | None:
            chosen = [self._on_the_wire(fields[name], where, query, wire) for name in names]
            return Part(where, message_type, chosen) if chosen else None

        self.path = part("path", [name for name in fields if name in path])
        self.query = part("query", in_query)
        self.body = part("body", in_body)
        self.either = {name: fields[name] for name in query if fields[name].required} if has_body else {}
        """The required fields that may stand in the query or in the body."""

    def bind(self, values: Mapping[str, object], args: MultiDict[str, str], body: bytes) -> T:
        """Make the message.

        Raises:
            InvalidInput: names the first field that is wrong, and where it stands.
        """
        found: dict[str, object] = {}
        if self.path is not None:
            found |= self.path.from_texts(values)
        if self.query is not None:
            found |= self.query.from_query(args)
        if self.body is not None:
            given = self.body.from_json(body)
            found |= {name: value for name, value in given.items() if value is not None or name not in found}
        for name, default in self._defaults.items():
            if found.get(name) is None:
                found[name] = default()
        for field in self.either.values():
            if found.get(field.name) is None:
                raise InvalidInput("the field is required", field=["query", field.encode_name], type="missing")
        return self.message_type(**found)

    def locate(self, field: str) -> list[str]:
        """Where a field of the message stands in the request."""
        for part in (self.path, self.query, self.body):
            for wire, name in part.names.items() if part is not None else ():
                if name == field:
                    return [part.where, wire] if part is not None else []
        return [field]

    def _on_the_wire(
        self, field: msgspec.structs.FieldInfo, where: str, query: set[str], wire: Mapping[str, str]
    ) -> msgspec.structs.FieldInfo:
        name = wire.get(field.name, field.name)
        is_optional = field.name in self._defaults or (field.name in query and where != "path")
        if is_optional and field.required:
            return msgspec.structs.FieldInfo(field.name, name, field.type | None, None)
        return msgspec.structs.FieldInfo(field.name, name, field.type, field.default, field.default_factory)


def decode_json(decode: Callable[[bytes], Any], body: bytes) -> Any:
    """Decode a request's body.

    Raises:
        InvalidInput: it is no JSON, or not of the type that is expected.
    """
    try:
        return decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid_input(error, "body") from None


def require_json(content_type: str | None, body: bytes) -> None:
    """Refuse a body that says it is something else than JSON."""
    if not body or content_type is None:
        return
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise UnsupportedMedia(f"expected application/json, got {media_type or 'no media type'}")


def _is_in_utc(time: datetime) -> bool:
    """Whether UTC has that time: messages carry times as those of UTC, and the first and last day have others."""
    try:
        time.astimezone(UTC)
    except OverflowError:
        return False
    return True


_structs: dict[tuple[str, tuple[tuple[str, str], ...]], type[msgspec.Struct]] = {}


def _struct(name: str, fields: Mapping[str, msgspec.structs.FieldInfo]) -> type[msgspec.Struct]:
    """The struct of these fields: the same for routes that take the same, and no two of one name, for the document."""
    key = name, tuple((wire, repr(field)) for wire, field in fields.items())
    if key not in _structs:
        definition = [_definition(wire, field) for wire, field in fields.items()]
        others = sum(known == name for known, _ in _structs)
        _structs[key] = msgspec.defstruct(
            f"{name}{others + 1 if others else ''}", definition, frozen=True, kw_only=True
        )
    return _structs[key]


def _definition(wire: str, field: msgspec.structs.FieldInfo) -> tuple[str, Any] | tuple[str, Any, Any]:
    if field.default_factory is not msgspec.NODEFAULT:
        return wire, field.type, msgspec.field(default_factory=field.default_factory)
    return (wire, field.type) if field.required else (wire, field.type, field.default)


def _is_list(type_: Any) -> bool:
    origin = get_origin(type_)
    if origin is Annotated or origin in (Union, types.UnionType):
        return any(_is_list(part) for part in get_args(type_))
    return origin in (list, tuple) or type_ in (list, tuple)
