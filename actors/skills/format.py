"""A skill as the Agent Skills format has it: a folder with `SKILL.md`, YAML front matter and then Markdown.

See https://agentskills.io/specification.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import cast

import msgspec

from ...runtime.errors import InvalidInput

SKILL_FILE = "SKILL.md"
TEXT_LIMIT_BYTES = 1_000_000
HEAD_LIMIT_CHARS = 8_000
DESCRIPTION_LIMIT = 1_024

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_HEAD = re.compile(r"\ufeff?---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


class SkillHead(msgspec.Struct, frozen=True):
    """What the front matter says. `tools` are those that the skill's author means it to use."""

    name: str
    description: str
    argument_hint: str = ""
    tools: tuple[str, ...] = ()


def is_skill_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def read_head(text: str) -> SkillHead:
    """Read the front matter of a SKILL.md. Raises: InvalidInput, which says what is wrong with it."""
    found = _HEAD.match(text[: HEAD_LIMIT_CHARS + 10])
    if found is None:
        raise InvalidInput(
            f"{SKILL_FILE} does not begin with front matter: a line ---, `name:` and `description:`, a line --- "
            f"(within {HEAD_LIMIT_CHARS:,} characters)"
        )
    fields = _parse(found[1])
    name, description = _text(fields, "name"), " ".join(_text(fields, "description").split())
    if not is_skill_name(name):
        raise InvalidInput(
            f"the name {name[:80]!r} in {SKILL_FILE} is not made of up to 64 lower-case letters, digits and hyphens"
        )
    if not description:
        raise InvalidInput(f"{SKILL_FILE} has no description: it is what the agent chooses the skill by")
    if len(description) > DESCRIPTION_LIMIT:
        raise InvalidInput(
            f"the description in {SKILL_FILE} has {len(description):,} characters, {DESCRIPTION_LIMIT:,} are the limit"
        )
    return SkillHead(name, description, _text(fields, "argument-hint")[:200], _tools(fields.get("allowed-tools")))


def _parse(head: str) -> Mapping[str, object]:
    import yaml  # here: 3 MB that a daemon without skills does not need

    try:
        # Makes nothing but texts, lists and dictionaries: safe_load's merging of keys can be made to take for ever.
        fields: object = yaml.load(head, yaml.BaseLoader)  # noqa: S506 - it is the safest there is
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        first, *_ = str(error).splitlines() or [type(error).__name__]
        raise InvalidInput(f"the front matter of {SKILL_FILE} is no YAML: {first}") from None
    if not isinstance(fields, dict):
        raise InvalidInput(f"the front matter of {SKILL_FILE} is no list of `name: value` lines")
    return cast("Mapping[str, object]", fields)


def _text(fields: Mapping[str, object], name: str) -> str:
    """A field that is a text; `[file]`, as hints are often written, is YAML's list of one."""
    value = fields.get(name)
    if isinstance(value, list):
        (first, *more) = cast("list[object]", value) or [""]
        value = f"[{first}]" if isinstance(first, str) and not more else ""
    return value.strip() if isinstance(value, str) else ""


def _tools(value: object) -> tuple[str, ...]:
    """`Read, Grep`, `Read Grep` and a YAML list say the same; `Bash(git *)` is one."""
    if isinstance(value, str):
        return tuple(re.findall(r"[^\s,(]+(?:\([^)]*\))?", value))[:100]
    if isinstance(value, list):
        return tuple(item for item in cast("list[object]", value) if isinstance(item, str))[:100]
    return ()
