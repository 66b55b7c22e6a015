"""Turns against a model: whatever is added, claimed and finished by whichever boot, in whatever order and grouping."""

from __future__ import annotations

import tempfile
from typing import Any, Literal

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from pocketpaw.runtime.errors import Conflict
from pocketpaw.runtime.message import Message
from pocketpaw.storage.database import open_database
from pocketpaw.storage.group import run_batch
from pocketpaw.storage.registry import answer, load_all
from pocketpaw.storage.sessions import ListSessions
from pocketpaw.storage.turns import AddTurn, ClaimTurn, FinishTurn, GetTurn, ListUnfinishedSessions

load_all()

BOOTS = ("boot-1", "boot-2")
SESSIONS = ("a", "b")
MAX_ATTEMPTS = 2


class Expected(msgspec.Struct):
    session_id: str
    content: str
    state: str
    boot_id: str
    attempts: int
    reply: str | None = None
    error: str | None = None

    @property
    def is_open(self) -> bool:
        return self.state in {"pending", "running"}


class TurnMachine(RuleBasedStateMachine):
    turn_ids: Bundle[str] = Bundle("turn_ids")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.database = open_database(f"sqlite:///{self.folder.name}/pocketpaw.db")
        self.writer = self.database.connect_writer()
        self.reader = self.database.connect_reader()
        self.expected: dict[str, Expected] = {}
        self.keys: dict[str, str] = {}

    def teardown(self) -> None:
        self.writer.close()
        self.reader.close()
        self.database.close()
        self.folder.cleanup()

    def write(self, message: Message[Any], beside_a_crash: bool) -> Any:
        """The outcome of the message, alone or in a group with one that crashes."""
        group = [message, ClaimTurn(turn_id="t-none", boot_id="x")] if beside_a_crash else [message]
        return run_batch(self.writer, group)[0]

    @rule(
        target=turn_ids,
        session_id=st.sampled_from(SESSIONS),
        boot_id=st.sampled_from(BOOTS),
        state=st.sampled_from(["pending", "running"]),
        content=st.sampled_from(["hello", "\0", ""]),
        key=st.sampled_from([None, None, "k1", "k2"]),
        grouped=st.booleans(),
    )
    def add(
        self,
        session_id: str,
        boot_id: str,
        state: Literal["pending", "running"],
        content: str,
        key: str | None,
        grouped: bool,
    ) -> str:
        turn_id = f"t-{len(self.expected)}"
        add = AddTurn(
            session_id=session_id,
            turn_id=turn_id,
            content=content,
            channel="api",
            state=state,
            boot_id=boot_id,
            principal="ann",
            idempotency_key=key,
        )
        outcome = self.write(add, grouped)
        stored = content.replace("\0", "\ufffd")
        if key in self.keys:
            earlier = self.keys[key]
            if self.expected[earlier].content == stored:
                assert (outcome.created, outcome.turn.id) == (False, earlier)
            else:
                assert isinstance(outcome, Conflict)
            return earlier
        assert outcome.created
        self.expected[turn_id] = Expected(session_id, stored, state, boot_id, attempts=int(state == "running"))
        if key is not None:
            self.keys[key] = turn_id
        return turn_id

    @rule(turn_id=turn_ids, boot_id=st.sampled_from(BOOTS), grouped=st.booleans())
    def claim(self, turn_id: str, boot_id: str, grouped: bool) -> None:
        outcome = self.write(ClaimTurn(turn_id=turn_id, boot_id=boot_id, max_attempts=MAX_ATTEMPTS), grouped)
        turn = self.expected[turn_id]
        if not turn.is_open:
            assert isinstance(outcome, Conflict)
            return
        turn.boot_id = boot_id
        if turn.attempts < MAX_ATTEMPTS:
            turn.attempts += 1
            turn.state = "running"
        else:
            turn.state = "interrupted"
            turn.error = f"gave up after {turn.attempts} attempts"
        assert outcome.state == turn.state

    @rule(
        turn_id=turn_ids,
        boot_id=st.sampled_from(BOOTS),
        state=st.sampled_from(["done", "failed", "stopped", "interrupted"]),
        content=st.sampled_from(["", "hi"]),
        error=st.sampled_from([None, "why"]),
        grouped=st.booleans(),
    )
    def finish(
        self,
        turn_id: str,
        boot_id: str,
        state: Literal["done", "failed", "stopped", "interrupted"],
        content: str,
        error: str | None,
        grouped: bool,
    ) -> None:
        finish = FinishTurn(turn_id=turn_id, boot_id=boot_id, state=state, content=content, error=error)
        outcome = self.write(finish, grouped)
        turn = self.expected[turn_id]
        reply = content if state == "done" or (state == "stopped" and content) else None
        if turn.is_open and turn.boot_id == boot_id:
            turn.state, turn.reply, turn.error = state, reply, error
        same_end = (turn.boot_id, turn.state, turn.reply, turn.error) == (boot_id, state, reply, error)
        assert isinstance(outcome, Conflict) is not same_end

    @invariant()
    def what_is_stored_is_what_was_answered(self) -> None:
        for turn_id, expected in self.expected.items():
            turn = answer(self.reader, GetTurn(turn_id=turn_id))
            found = Expected(
                turn.session_id, turn.content, turn.state, turn.boot_id, turn.attempts, turn.reply, turn.error
            )
            assert found == expected

    @invariant()
    def unfinished_turns_and_counters_agree_with_the_turns(self) -> None:
        for boot_id in BOOTS:
            left = [turn for turn in self.expected.values() if turn.is_open and turn.boot_id != boot_id]
            of_sessions = list(dict.fromkeys(turn.session_id for turn in left))
            assert answer(self.reader, ListUnfinishedSessions(boot_id=boot_id)) == of_sessions
        for session in answer(self.reader, ListSessions()).sessions:
            of_session = [turn for turn in self.expected.values() if turn.session_id == session.id]
            assert session.message_count == len(of_session) + sum(turn.reply is not None for turn in of_session)


def test_turns_behave_as_their_model() -> None:
    run_state_machine_as_test(TurnMachine, settings=settings(max_examples=40, stateful_step_count=20, deadline=None))
