"""A kit as its author writes it: YAML with what it is, panels to look at, and workflows that the agent is given.

What is said here of a kit's fields is all there is: one that is misspelt is refused, by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Literal, cast

import msgspec
from msgspec import Meta

from ...runtime.errors import InvalidInput, TooLarge
from ..scheduler.intentions import Prompt
from ..scheduler.slots import read_cron
from .sources import SOURCES, WORKFLOW

LIMIT_BYTES = 64 * 1024

KitId = Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$(?!\n)")]
Line = Annotated[str, Meta(min_length=1, max_length=200)]
Key = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$(?!\n)")]
SourceName = Annotated[str, Meta(pattern=r"^(api|workflow):[A-Za-z0-9_-]{1,64}$(?!\n)")]
Value = Annotated[str, Meta(max_length=2_000)]

_PLACEHOLDER = re.compile(r"\{\{([^{}]*)\}\}")  # the spaces are stripped later: here they would be tried in every split


class KitMeta(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: Line
    description: Annotated[str, Meta(min_length=1, max_length=1_000)]
    author: Annotated[str, Meta(max_length=200)] = ""
    version: Annotated[str, Meta(max_length=50)] = "1.0.0"
    category: Annotated[str, Meta(max_length=50)] = "general"
    tags: Annotated[list[Line], Meta(max_length=20)] = []
    icon: Annotated[str, Meta(max_length=50)] = "layout-dashboard"
    built_in: bool = False


class _Panel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    id: Key


class Metric(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One figure: `field` is its place in the source's answer, names with dots between."""

    label: Line
    source: SourceName
    field: Line
    format: Literal["number", "currency", "percent", "bytes", "duration", "text"] = "number"


class MetricsRow(_Panel, frozen=True, tag="metrics-row"):
    items: Annotated[list[Metric], Meta(min_length=1, max_length=20)]


class Column(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: Line
    label: Line
    color: Annotated[str, Meta(max_length=50)] | None = None


class TablePanel(_Panel, frozen=True, tag="table"):
    source: SourceName
    columns: Annotated[list[Column], Meta(min_length=1, max_length=20)]


class Kanban(_Panel, frozen=True, tag="kanban"):
    source: SourceName
    columns: Annotated[list[Column], Meta(min_length=1, max_length=20)]
    card_fields: Annotated[list[Line], Meta(max_length=20)] = []


class Feed(_Panel, frozen=True, tag="feed"):
    source: SourceName
    max_items: Annotated[int, Meta(ge=1, le=500)] = 20


class Markdown(_Panel, frozen=True, tag="markdown"):
    """A text of the kit's own, or the answer of a workflow."""

    content: Annotated[str, Meta(max_length=20_000)] = ""
    source: SourceName | None = None


Panel = MetricsRow | TablePanel | Kanban | Feed | Markdown


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    title: Line
    panels: Annotated[list[Panel], Meta(max_length=20)]
    span: Literal["full", "left", "right"] = "full"


class Layout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    sections: Annotated[list[Section], Meta(max_length=20)]
    columns: Annotated[int, Meta(ge=1, le=6)] = 2


class KitWorkflow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the agent is told, and when: `schedule` is a cron line, local time. `{{key}}` stands for a user's value."""

    schedule: Line
    instruction: Annotated[str, Meta(min_length=1, max_length=20_000)]


class UserField(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that the user may set; nothing secret, as it goes into instructions."""

    key: Key
    label: Line
    type: Literal["text", "select", "number"] = "text"
    default: Value = ""
    placeholder: Annotated[str, Meta(max_length=200)] | None = None
    options: Annotated[list[Line], Meta(max_length=50)] | None = None
    help_url: Annotated[str, Meta(max_length=500)] | None = None


class KitConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`skills` names those that its workflows use; `integrations` is for clients, and read by nobody here."""

    meta: KitMeta
    layout: Layout
    workflows: Annotated[dict[Key, KitWorkflow], Meta(max_length=20)] = {}
    user_config: Annotated[list[UserField], Meta(max_length=20)] | None = None
    skills: Annotated[list[Line], Meta(max_length=20)] | None = None
    integrations: dict[str, object] | None = None

    def sources(self) -> list[str]:
        """The sources that its panels show, each once."""
        return list(dict.fromkeys(source for _, source in _sources(self)))

    def values(self, given: dict[str, str]) -> dict[str, str]:
        """The user's values, by default those of the kit. Raises InvalidInput for one that it does not have."""
        fields = {field.key: field for field in self.user_config or ()}
        for key, value in given.items():
            _check_value(fields.get(key), key, value)
        return {key: given.get(key, field.default) for key, field in fields.items()}

    def instruction(self, workflow: KitWorkflow, values: dict[str, str]) -> str:
        """The prompt of a workflow, with the user's values in it. Raises InvalidInput if it is none."""
        told = _PLACEHOLDER.sub(lambda found: values[found[1].strip()], workflow.instruction)
        try:
            return msgspec.convert(told, Prompt)
        except msgspec.ValidationError:
            problem = f"the values have to make an instruction of 1 to 100,000 characters, got {len(told)}"
            raise InvalidInput(problem, field="user_values") from None


def read_kit(text: str) -> KitConfig:
    """Read and check a kit. It computes for up to a second. Raises InvalidInput, which names the field; TooLarge."""
    if len(text.encode(errors="replace")) > LIMIT_BYTES:
        raise TooLarge(f"a kit may have {LIMIT_BYTES // 1024} KiB")
    document = _parse(text)
    _check_content(document)
    try:
        config = msgspec.convert(document, KitConfig)
    except msgspec.ValidationError as error:
        raise _wrong(_named(document, str(error))) from None
    _check(config)
    return config


def _parse(text: str) -> object:
    import yaml  # 10 ms and 2 MB, that only those pay who have kits

    class Plain(yaml.SafeLoader):
        """Without aliases: a few of them can stand for more than there is memory."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                event = cast("yaml.AliasEvent", self.peek_event())
                raise yaml.MarkedYAMLError(problem="aliases (*name) are not read here", problem_mark=event.start_mark)
            return super().compose_node(parent, index)

    try:
        return cast("object", yaml.load(text, Plain))  # noqa: S506 - it derives from the safe one
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark is not None else ""
        raise _wrong(f"{where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise _wrong(" ".join(str(error).split())) from None
    except (RecursionError, ValueError) as error:
        raise _wrong("it is nested too deep" if isinstance(error, RecursionError) else str(error)) from None


def _check_content(document: object) -> None:
    """See that it can be stored, sent and shown: YAML has names, numbers and characters that others have not."""
    try:
        msgspec.json.encode(document)
        msgspec.msgpack.encode(document)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise _wrong(f"something in it cannot be kept: {error}") from None


def _named(document: object, problem: str) -> str:
    """The problem, with the workflow's name where msgspec has none."""
    workflows = cast("dict[str, object]", document).get("workflows") if isinstance(document, dict) else None
    if "$.workflows[...]" not in problem or not isinstance(workflows, dict):
        return problem
    for key, workflow in cast("dict[object, object]", workflows).items():
        try:
            msgspec.convert(workflow, KitWorkflow)
        except msgspec.ValidationError:
            return problem.replace("$.workflows[...]", f"$.workflows.{key}")
    return problem


def _check(config: KitConfig) -> None:
    """See what types cannot say. Raises InvalidInput."""
    for place, source in _sources(config):
        kind, _, name = source.partition(":")
        known = config.workflows if kind == WORKFLOW else SOURCES
        if name not in known:
            there_are = ", ".join(f"{kind}:{name}" for name in known) or "none"
            raise _wrong(f"there is no source {source!r}; of this kind there are {there_are} - at `{place}`")
    keys = [field.key for field in config.user_config or ()]
    if len(set(keys)) != len(keys):
        raise _wrong("each key may stand once - at `$.user_config`")
    for field in config.user_config or ():
        _check_value(field, field.key, field.default)
    for name, workflow in config.workflows.items():
        try:
            read_cron(workflow.schedule, UTC).after(datetime.now(UTC))
        except InvalidInput as error:
            raise _wrong(f"{error.detail} - at `$.workflows.{name}.schedule`") from None
        for found in _PLACEHOLDER.finditer(workflow.instruction):
            if (wanted := found[1].strip()) not in keys:
                place = f"$.workflows.{name}.instruction"
                raise _wrong(f"{{{{{wanted}}}}} is no key of user_config - at `{place}`")


def _check_value(field: UserField | None, key: str, value: str) -> None:
    place = {"field": ["user_values", key]}
    if field is None:
        raise InvalidInput(f"this kit has nothing called {key!r} to set", **place)
    if len(value) > 2_000:
        raise InvalidInput("expected at most 2,000 characters", **place)
    if field.type == "select" and value and value not in (field.options or ()):
        raise InvalidInput(f"expected one of {', '.join(field.options or ())}, got {value!r}", **place)
    if field.type == "number" and value and not re.fullmatch(r"-?\d+(\.\d+)?", value):
        raise InvalidInput(f"expected a number, got {value!r}", **place)


def _sources(config: KitConfig) -> Iterator[tuple[str, str]]:
    """Each source that a panel names, with its place."""
    for number, section in enumerate(config.layout.sections):
        for index, panel in enumerate(section.panels):
            place = f"$.layout.sections[{number}].panels[{index}]"
            if isinstance(panel, MetricsRow):
                yield from ((f"{place}.items[{i}].source", item.source) for i, item in enumerate(panel.items))
            elif panel.source is not None:
                yield f"{place}.source", panel.source


def _wrong(problem: str) -> InvalidInput:
    return InvalidInput(f"the kit cannot be used: {problem}", field="yaml")
