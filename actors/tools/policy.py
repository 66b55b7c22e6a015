"""Which calls may be made, which wait for a person, which are refused: pure decisions, from rules and grants.

A rule is `tool`, `tool(pattern)` or `principal@tool(pattern)`, with `*` and `?` as in file names. Denying is stronger
than asking, asking than allowing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from ...config.settings import Settings
from ...runtime.envelope import Principal
from ...storage.grants import Grant
from .protocol import ToolInfo

Verdict = Literal["allow", "ask", "deny"]

PROFILES: dict[str, tuple[str, ...]] = {
    "minimal": (
        "current_time", "daemon_health", "search_sessions", "remember", "recall", "forget", "read_skill",
    ),
    "coding": (
        "current_time", "daemon_health", "search_sessions", "remember", "recall", "forget", "read_skill",
        "list_files", "read_file", "write_file", "edit_file", "search_files", "shell", "web_fetch", "web_search",
    ),
    "full": ("*",),
}  # fmt: skip
"""The tools that each profile offers."""

_RULE = re.compile(r"(?:(?P<who>[^@()\s]+)@)?(?P<tool>[A-Za-z0-9_*?-]+)(?:\((?P<pattern>.*)\))?", re.DOTALL)
_SHELL_SYNTAX = frozenset(";&|<>$`(){}\n\\")
"""With one of these a command may hold another command, which no pattern with a wildcard should let through."""


class Decision(msgspec.Struct, frozen=True):
    verdict: Verdict
    reason: str


class Call(msgspec.Struct, frozen=True):
    """What is to be decided: a tool, the subject of the call, who is behind it, and what may have provoked it."""

    tool: ToolInfo
    subject: str
    principal: Principal
    provenance: Sequence[str]
    place: str = ""
    """Where a command is to be run, if not where commands are run by default."""

    @property
    def whole(self) -> str:
        """What has to fit to be allowed: the same command does something else in another folder."""
        return f"{self.subject}\n# in {self.place}" if self.place else self.subject


def is_offered(tool: ToolInfo, settings: Settings) -> bool:
    """Whether a model is told of the tool at all."""
    in_profile = any(fnmatchcase(tool.name, pattern) for pattern in PROFILES[settings.tool_profile])
    return (in_profile or _names(settings.tools_allow, tool)) and not _denies_whole(settings.tools_deny, tool)


def decide(call: Call, settings: Settings, grants: Iterable[Grant]) -> Decision:
    """Decide about one call, by the first of these that speaks: denied, scope, outside content, asked, allowed, read.

    Outside content counts before what is allowed: a rule or a grant was not given with that content in mind, unless the
    grant was given in spite of its kind. What only reads is not held for it, unless it tells the content of one party
    to another.
    """
    tool = call.tool
    if not is_offered(tool, settings):
        return Decision("deny", f"{tool.name} is not among the tools that the operator offers")
    if rule := _match(settings.tools_deny, call, is_strict=False):
        return Decision("deny", f"the operator denies {rule}")
    if not call.principal.may(tool.scope):
        return Decision("ask", f"who asks lacks the scope {tool.scope}, which it takes to do this")
    granted = [grant for grant in grants if _covers(grant, call)]
    if provokers := _provokers(call):
        kinds = {_kind(source) for source in provokers}
        if any(kinds <= set(grant.provenance) for grant in granted):
            return Decision("allow", "a person has granted it in spite of such content")
        return Decision("ask", f"it may have been provoked by content from outside: {', '.join(provokers)}")
    if rule := _match(settings.tools_ask, call, is_strict=False):
        return Decision("ask", f"the operator wants to be asked about {rule}")
    if rule := _match(settings.tools_allow, call, is_strict=True):
        return Decision("allow", f"the operator allows {rule}")
    if granted:
        return Decision("allow", "a person has granted it")
    return Decision("allow" if tool.effect in ("read", "keep") else "ask", _WHY[tool.effect])


_WHY = {
    "read": "it only reads",
    "keep": "it only adds to what this daemon keeps",
    "write": "it changes something",
    "execute": "it runs a program or acts through one",
    "egress": "it sends something out to the network",
}


def pattern_for(tool: ToolInfo, subject: str) -> str:
    """What a grant for this call covers: the same subject again; of an address, all at its host.

    An empty one covers every call of a tool that has no subject, and of another tool those that lack theirs.
    """
    if tool.effect == "egress" and "://" in subject:
        try:
            parts = urlsplit(subject)
        except ValueError:  # no address, as whoever executes it says
            return _escape(subject)
        return f"{_escape(f'{parts.scheme}://{parts.netloc}')}/*"
    return _escape(subject)


def _covers(grant: Grant, call: Call) -> bool:
    if grant.principal != call.principal.name or grant.tool != call.tool.name:
        return False
    if not call.tool.subject:
        return not grant.pattern
    return _fits(grant.pattern, call, is_strict=True)


def _provokers(call: Call) -> list[str]:
    """The outside content on whose account the call is held."""
    if call.tool.effect != "read":
        return list(call.provenance)
    return [source for source in call.provenance if call.tool.source not in ("", source)]


def _kind(source: str) -> str:
    return source.partition(" ")[0]


def _match(rules: Iterable[str], call: Call, *, is_strict: bool) -> str | None:
    """The first rule that speaks of the call."""
    for rule in rules:
        who, tool, pattern = _parts(rule)
        if not fnmatchcase(call.tool.name, tool) or (who and not fnmatchcase(call.principal.name, who)):
            continue
        if pattern is None or _fits(pattern, call, is_strict=is_strict):
            return rule
    return None


def _fits(pattern: str, call: Call, *, is_strict: bool) -> bool:
    """Whether the subject fits; strictly, a wildcard does not cover a command that may hold another one.

    Of a tool without a subject nobody can say: then what denies or asks fits, and what allows does not.
    """
    if not call.tool.subject:
        return not is_strict
    if is_strict and call.tool.effect == "execute" and _SHELL_SYNTAX.intersection(call.whole):
        return call.whole == _unescape(pattern)
    return fnmatchcase(call.subject, pattern)


def _names(rules: Iterable[str], tool: ToolInfo) -> bool:
    return any(fnmatchcase(tool.name, _parts(rule)[1]) for rule in rules)


def _denies_whole(rules: Iterable[str], tool: ToolInfo) -> bool:
    return any(
        who is None and pattern is None and fnmatchcase(tool.name, name) for who, name, pattern in map(_parts, rules)
    )


def _parts(rule: str) -> tuple[str | None, str, str | None]:
    found = _RULE.fullmatch(rule)
    if found is None:  # the settings let none of these through
        raise ValueError(f"not a rule: {rule!r}")
    return found["who"], found["tool"], found["pattern"]


def _escape(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)


def _unescape(pattern: str) -> str:
    return re.sub(r"\[([*?[])\]", r"\1", pattern)
