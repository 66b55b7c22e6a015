"""One setting: what is known about it, and how a value for it is checked, read from text and masked."""

import re
from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec

MASK = "…"
"""Stands for what is not shown; no credential holds it, so a value that does was masked by us and written back."""

LONGEST_TEXT = 8192
"""Characters: every secret is looked for in each line of the log, and the vault is written whole at each change."""

_MASKED_WHOLE_BELOW = 20  # of a shorter secret, the seven characters that a mask shows would give too much away
_PASSWORD_IN_URL = re.compile(r"(?P<before>://[^:/@\s]*:|[?&]password=)(?P<password>(?<=:)\S+(?=@)|(?<==)[^&\s]+)")
_SWITCH_WORDS: dict[str, bool] = {
    **dict.fromkeys(("true", "1", "yes", "on"), True),
    **dict.fromkeys(("false", "0", "no", "off"), False),
}

Kind = Literal["text", "switch", "whole number", "number", "list", "map"]


class SettingError(Exception):
    """A value that a setting cannot have; `message` says what was expected and, unless it is a secret, what came."""

    def __init__(self, setting: str, message: str) -> None:
        super().__init__(f"{setting}: {message}")
        self.setting = setting
        self.message = message


class About(msgspec.Struct, frozen=True):
    """What a field's annotation says beyond msgspec's own constraints."""

    unit: str
    secret: bool
    is_url: bool
    expects: str
    needs_restart: bool
    bounds: tuple[float | None, float | None]


def about(
    help: str,  # noqa: A002 - reads as a sentence in the table
    *,
    unit: str = "",
    secret: bool = False,
    is_url: bool = False,
    expects: str = "",
    needs_restart: bool = False,
    pattern: str | None = None,
    ge: float | None = None,
    le: float | None = None,
) -> msgspec.Meta:
    """Describe a field of the settings table; `expects` replaces the pattern in error messages."""
    if is_url:
        pattern, expects = r"^(https?|wss?)://[^\s/?#]+\S*$|^$", "an address such as https://host/path"
    if secret and pattern is None:
        pattern, expects = r"^[!-~]*$", "one line of ASCII characters without spaces"
    schema = {"format": "password" if secret else None, "x-unit": unit or None}
    constraints: dict[str, Any] = {"ge": ge, "le": le, "pattern": pattern}
    return msgspec.Meta(
        **constraints,
        description=help,
        extra_json_schema={key: value for key, value in schema.items() if value},
        extra={"about": About(unit, secret, is_url, expects, needs_restart, (ge, le))},
    )


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the settings table."""

    name: str
    kind: Kind
    default: object
    help: str
    about: About
    annotation: object
    """The type with its constraints, as msgspec takes it."""

    @property
    def env(self) -> str:
        """Its environment variable."""
        return f"POCKETPAW_{self.name.upper()}"

    @property
    def secret(self) -> bool:
        return self.about.secret

    @property
    def unit(self) -> str:
        return self.about.unit

    def check(self, value: object) -> object:
        """Return `value`, a JSON value, as this setting holds it; None gives the default.

        Space around text and the slash at an address's end are dropped. Raises SettingError.
        """
        return self.default if value is None else self._converted(value, strict=True)

    def parse(self, text: str) -> object:
        """Return the value that `text`, from the environment or the command line, means.

        A list is comma-separated or a JSON array, a map a JSON object, a switch also yes/no or on/off.
        Raises SettingError.
        """
        text = text.strip()
        if not text.isprintable():
            raise self._refusal("expected printable text", text)
        match self.kind:
            case "switch":
                if text.lower() not in _SWITCH_WORDS:
                    raise self._refusal("expected true or false", text)
                return _SWITCH_WORDS[text.lower()]
            case "list" if not text.startswith("["):
                return self._converted([item for item in text.split(",") if item.strip()], strict=False)
            case "list" | "map":
                return self._converted(self._decoded(text), strict=False)
            case _:
                return self._converted(text, strict=False)

    def mask(self, value: object) -> object:
        """Return `value` as it may be shown: a secret as `sk-…1234`, a password inside an address as `…`."""
        if not isinstance(value, str):
            return value
        if not self.secret:
            return _PASSWORD_IN_URL.sub(rf"\g<before>{MASK}", value)
        if len(value) < _MASKED_WHOLE_BELOW:
            return MASK if value else ""
        return f"{value[:3]}{MASK}{value[-4:]}"

    def is_mask(self, value: object) -> bool:
        """Tell whether `value` is something that `mask` returned for a set secret."""
        if not isinstance(value, str):
            return False
        return MASK in value if self.secret else MASK in _passwords(value)

    def secrets_in(self, value: object) -> Iterator[str]:
        """Yield the parts of `value` that no log may show."""
        if not isinstance(value, str) or not value:
            return
        if self.secret:
            yield value
        else:
            yield from _passwords(value)

    def _converted(self, value: object, *, strict: bool) -> object:
        value = self._tidied(value)
        try:
            converted = msgspec.convert(value, self.annotation, strict=strict)
        except msgspec.ValidationError as error:
            reason = f"expected {self.about.expects}" if self.about.expects else _lower_first(str(error))
            raise self._refusal(reason, value) from None
        if not all(text.isprintable() for text in _texts(converted)):
            raise self._refusal("expected one line of printable text", value)
        if (longest := max(map(len, _texts(converted)), default=0)) > LONGEST_TEXT:
            raise self._refusal(f"expected at most {LONGEST_TEXT} characters, got {longest}", value)
        return converted

    def _tidied(self, value: object) -> object:
        if isinstance(value, list):
            return [self._tidied(item) for item in cast("list[object]", value)]
        if not isinstance(value, str):
            return value
        return value.strip().rstrip("/") if self.about.is_url else value.strip()

    def _decoded(self, text: str) -> object:
        try:
            return msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            raise self._refusal("expected JSON", text) from None

    def _refusal(self, reason: str, value: object) -> SettingError:
        if self.secret or ", got " in reason:
            return SettingError(self.name, reason)
        shown = repr(self.mask(value))
        return SettingError(self.name, f"{reason}, got {shown if len(shown) <= 80 else f'{shown[:77]}...'}")


def table(declared: type[msgspec.Struct]) -> dict[str, Setting]:
    """Read the rows off a struct whose every field is annotated with `about`."""
    hints = get_type_hints(declared, include_extras=True)
    return {field.name: _row(field, hints[field.name]) for field in msgspec.structs.fields(declared)}


def _row(field: msgspec.structs.FieldInfo, annotation: object) -> Setting:
    metas = [meta for meta in get_args(annotation)[1:] if isinstance(meta, msgspec.Meta)]
    if not metas or not metas[-1].extra or not metas[-1].description:
        raise TypeError(f"setting {field.name} is not described: annotate it with about(…)")
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    return Setting(
        name=field.name,
        kind=_kind(annotation),
        default=default,
        help=metas[-1].description,
        about=cast("About", metas[-1].extra["about"]),
        annotation=annotation,
    )


def _kind(annotation: object) -> Kind:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Annotated, Union, UnionType):  # of a union with None, the other type decides
        return _kind(arguments[0])
    kinds: dict[object, Kind] = {
        bool: "switch",
        int: "whole number",
        float: "number",
        tuple: "list",
        dict: "map",
    }
    return kinds.get(origin or annotation, "text")


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (tuple, dict)):
        for item in cast("tuple[object, ...] | dict[object, object]", value):
            yield from _texts(item)


def _passwords(value: str) -> list[str]:
    return [match["password"] for match in _PASSWORD_IN_URL.finditer(value)]


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
