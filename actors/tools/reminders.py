"""Reminders, as tools: the user asks for one in conversation, and is reminded there."""

from __future__ import annotations

from typing import Annotated

import msgspec

from ..scheduler.clock import local_zone
from ..scheduler.reminders import DeleteReminder, ListReminders, Remind, Reminder
from ..scheduler.scheduler import SettingsSource
from .protocol import Execute, ToolOutput
from .toolbox import Arguments, Toolbox, tool

SOURCE = "reminders"
"""Says that a reminder's text may be others', as an agent that read theirs made it."""


class SetReminder(Arguments, frozen=True):
    message: Annotated[
        str,
        msgspec.Meta(
            description="In English, when and of what: 'in 10 minutes to stretch', 'tomorrow at 5pm call Ann', "
            "'every weekday at 9 stand-up', 'on 2027-03-01 at 14:00 dentist'",
            min_length=1,
            max_length=5_000,
        ),
    ]


class ListRemindersArguments(Arguments, frozen=True):
    """Nothing."""


class CancelReminder(Arguments, frozen=True):
    reminder_id: Annotated[
        str, msgspec.Meta(description="As in brackets in what list_reminders says", min_length=1, max_length=100)
    ]


class ReminderTools(Toolbox):
    """Speaks for its caller to the scheduler."""

    def __init__(self, live: SettingsSource) -> None:
        super().__init__()
        self._live = live

    @tool("keep", "reminders", subject="message")
    async def set_reminder(self, arguments: SetReminder, call: Execute) -> str:
        """Set a reminder for the user, for once or again and again. It will be said in this conversation.

        Say the time that it comes back with to the user, so that a misunderstanding is seen.
        """
        added = await self.ask(Remind(message=arguments.message, session_id=call.session_id))
        return f"Set: {self._line(added.reminder)}"

    @tool("read", "reminders")
    async def list_reminders(self, arguments: ListRemindersArguments, call: Execute) -> ToolOutput:
        """List the reminders that are still to come, soonest first, each with its id in brackets."""
        listed = await self.ask(ListReminders())
        if not listed.reminders:
            return ToolOutput("There are no reminders.")
        source = SOURCE if any(reminder.provenance for reminder in listed.reminders) else ""
        return ToolOutput("\n".join(map(self._line, listed.reminders)), source=source)

    @tool("keep", "reminders", subject="reminder_id")
    async def cancel_reminder(self, arguments: CancelReminder, call: Execute) -> str:
        """Cancel a reminder; one that recurs comes no more. Use list_reminders first, which shows its id."""
        reminder_id = arguments.reminder_id.strip("[] ")
        await self.ask(DeleteReminder(reminder_id=reminder_id))
        return f"Cancelled [{reminder_id}]."

    def _line(self, reminder: Reminder) -> str:
        """A reminder, by the time that people here live by."""
        at = reminder.trigger_at.astimezone(local_zone(self._live.current.time_zone))
        again = f", {reminder.recurrence}" if reminder.recurrence else ""
        learned = f", made while reading {', '.join(reminder.provenance)}" if reminder.provenance else ""
        return (
            f"[{reminder.id}] {reminder.text} ({at:%A, %Y-%m-%d %H:%M %Z}, {reminder.time_remaining}{again}{learned})"
        )
