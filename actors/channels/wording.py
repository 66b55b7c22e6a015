"""What the daemon itself says to people on chat platforms, and the few words of theirs that are meant for it."""

from __future__ import annotations

import re
from typing import Literal

from ...storage.inbox import Inbound
from ...storage.tool_calls import CallRecord
from ...storage.turns import Turn

Command = Literal["start", "help", "new", "stop"]
COMMANDS: tuple[Command, ...] = ("start", "help", "new", "stop")

HELP = """\
Write to me as you would to a person. What I understand besides:

/new - begin a new conversation
/stop - stop the answer that I am writing
/help - this list

When I ask before I do something, answer **yes** or **no**."""

ANSWERS: dict[Command, str] = {
    "start": f"Hello, I am PocketPaw.\n\n{HELP}",
    "help": HELP,
    "new": "A new conversation. What was said before stays in the list of sessions.",
    "stop": "I stop.",
}

PAIRED = "We are paired: from now on I listen to you. /help says what I understand."
STRANGER = (
    "I only talk with people whom my owner has let in. If that is you: make a pairing code (in the dashboard, or with "
    "`pocketpaw pair`) and send it to me."
)

REPEAT_MARK = "↻ Perhaps again, after an interruption:\n\n"
"""At the head of a message that may have arrived before."""

NO_TEXT = "(no text)"
NOTHING_SAID = "(I have nothing to say to that.)"
STOPPED = "(stopped)"
BROKEN = "I could not answer that: something in me has failed. My owner finds it among the errors."

ARGUMENT_CHARS = 300

_COMMAND = re.compile(r"/(start|help|new|stop)(?:@\w+)?(?:\s.*)?", re.IGNORECASE | re.DOTALL)
_DECISIONS = {
    **dict.fromkeys(("yes", "y", "ok", "approve", "/approve", "/yes", "👍"), True),
    **dict.fromkeys(("no", "n", "deny", "/deny", "/no", "👎"), False),
}


def command_in(text: str) -> Command | None:
    """The command that a message is, if it is one."""
    found = _COMMAND.fullmatch(text.strip())
    return None if found is None else next(name for name in COMMANDS if name == found[1].lower())


def decision_in(text: str) -> bool | None:
    """Whether a message says yes or no, and nothing else."""
    return _DECISIONS.get(text.strip().rstrip(".!").lower())


def question_for(inbound: Inbound) -> str:
    """What the agent is told: in a chat of many also who says it."""
    text = inbound.text or NO_TEXT
    return text if inbound.is_direct else f"{inbound.sender_name}: {text}"


def answer_of(turn: Turn) -> str:
    """What is said of a turn that has ended."""
    match turn.state:
        case "done":
            return turn.reply or NOTHING_SAID
        case "stopped":
            return f"{turn.reply}\n\n{STOPPED}" if turn.reply else STOPPED
        case _:
            return f"I could not answer that: {turn.error or 'it was interrupted'}"


def approval_line(tool: str, arguments: object, reason: str) -> str:
    """The question whether a call may be made."""
    shown = str(arguments)
    if len(shown) > ARGUMENT_CHARS:
        shown = f"{shown[:ARGUMENT_CHARS]}…"
    block = shown.replace("```", "'''")
    return f"May I use **{tool}**? I ask because {reason}.\n\n```\n{block}\n```\n\nAnswer **yes** or **no**."


def decided_line(call: CallRecord, *, is_approved: bool) -> str:
    return f"{call.tool} is approved." if is_approved else f"{call.tool} is denied."


def undecided_line(call: CallRecord, why: str) -> str:
    return f"{call.tool} still waits: {why}. Decide in the dashboard, or with `pocketpaw approve {call.request_id}`."
