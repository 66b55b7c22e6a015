"""Kits on the real store and scheduler; only the agent is played."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio
from pocketpaw.actors.health import GetHealth, HealthView
from pocketpaw.actors.kits.keeper import Kits
from pocketpaw.actors.kits.problems import GetKitProblems
from pocketpaw.actors.kits.protocol import (
    ActivateKit,
    DeactivateKit,
    GetKit,
    GetKitData,
    GetKitSource,
    InstallCatalogKit,
    InstallKit,
    ListKitCatalog,
    ListKits,
    RemoveKit,
)
from pocketpaw.actors.scheduler.intentions import ListIntentions, RunIntention, SetWorkflows
from pocketpaw.actors.scheduler.reminders import Remind
from pocketpaw.actors.scheduler.scheduler import Scheduler
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, DynamicSupervisor, Principal, Supervisor
from pocketpaw.runtime.errors import Conflict, Forbidden, InvalidInput, NotFound, Unavailable
from pocketpaw.storage.jobs import Job, ListJobs
from pocketpaw.storage.kits import ChangeKit, GetStoredKit, KeepKit, StoredKit
from pocketpaw.storage.tables import utc_now

from ..scheduler.virtual import Answers, FakeAgent

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Open = Callable[[], AbstractAsyncContextManager[ActorSystem]]

ANN = Principal("ann", frozenset({"kits", "chat", "reminders"}))
BEN = Principal("ben", frozenset({"kits"}))
MINE = """
meta: {name: My Kit, description: For me.}
layout:
  sections:
    - title: All
      panels:
        - {id: a, type: feed, source: "api:reminders"}
        - {id: b, type: feed, source: "api:sessions"}
        - {id: c, type: markdown, source: "workflow:greet"}
        - {id: d, type: metrics-row, items: [{label: H, source: "api:health", field: status}]}
workflows:
  greet: {schedule: 0 9 * * *, instruction: "Greet {{name}}."}
user_config:
  - {key: name, label: Name, default: Ann}
"""


class FakeHealth(Actor):
    """Says that all is well, or hangs until `hangs` is emptied."""

    def __init__(self, hangs: list[bool]) -> None:
        super().__init__()
        self._hangs = hangs

    async def get_health(self, message: GetHealth) -> HealthView:
        while self._hangs:  # noqa: ASYNC110 the test ends it
            await trio.sleep(0.02)
        return HealthView("healthy", 1, [], None)


@pytest.fixture
def answers() -> Answers:
    return Answers(takes_s=0.0)


@pytest.fixture
def hangs() -> list[bool]:
    return []


@pytest.fixture
def daemon(
    live: LiveSettings,
    make_store: Callable[[], Supervisor],
    running: Running,
    answers: Answers,
    hangs: list[bool],
) -> Open:
    @asynccontextmanager
    async def start() -> AsyncGenerator[ActorSystem]:
        tree = Supervisor(
            "root",
            [
                make_store(),
                Child(FakeHealth, hangs, id="health"),
                DynamicSupervisor("agents", partial(FakeAgent, answers=answers)),
                Child(Scheduler, live, "boot-1"),
                Child(Kits),
            ],
        )
        async with running(tree) as system:
            yield system

    return start


async def workflows(system: ActorSystem) -> list[Job]:
    return [job for job in await system.ask(ListJobs(kind="intention")) if job.owner]


async def test_a_kit_of_the_catalogue_is_installed_with_its_workflows_and_uninstalled_without_a_trace(
    daemon: Open,
) -> None:
    async with daemon() as system:
        catalog = await system.ask(ListKitCatalog())
        assert catalog.count == len(catalog.catalog) >= 5
        assert not any(entry.installed for entry in catalog.catalog)
        made = await system.ask(
            InstallCatalogKit(kit_id="morning-briefing", user_values={"name": "Ann"}), principal=ANN
        )
        assert (made.id, made.activated, made.kit.active) == ("morning-briefing", True, True)
        assert {entry.id for entry in (await system.ask(ListKitCatalog())).catalog if entry.installed} == {made.id}
        briefing, review = await workflows(system)
        assert (briefing.name, briefing.schedule) == ("Morning Briefing: briefing", "0 7 * * *")
        assert (briefing.principal, briefing.scopes) == ("ann", sorted(ANN.scopes))
        assert "for Ann, in at most" in briefing.prompt
        assert review.next_slot is not None
        with pytest.raises(Conflict, match="installed already"):
            await system.ask(InstallCatalogKit(kit_id="morning-briefing"))
        assert [kit.id for kit in (await system.ask(ListKits())).kits] == [made.id]
        await system.ask(RemoveKit(kit_id=made.id))
        assert await workflows(system) == []
        assert (await system.ask(ListKits())).count == 0
        for change in (RemoveKit(kit_id=made.id), ActivateKit(kit_id=made.id), DeactivateKit(kit_id=made.id)):
            with pytest.raises(NotFound, match="no kit 'morning-briefing' is installed"):
                await system.ask(change)
        with pytest.raises(NotFound, match="catalogue"):
            await system.ask(InstallCatalogKit(kit_id="moon-base"))


async def test_ones_own_kit_runs_only_while_it_is_active_and_for_who_activated_it(daemon: Open) -> None:
    async with daemon() as system:
        made = await system.ask(InstallKit(yaml=MINE))
        assert (made.id, made.activated, made.kit.user_values) == ("my-kit", False, {"name": "Ann"})
        assert await workflows(system) == []
        await system.ask(ActivateKit(kit_id="my-kit"), principal=ANN)
        (first,) = await workflows(system)
        assert (first.prompt, first.principal, first.owner) == ("Greet Ann.", "ann", "kit:my-kit")
        await system.ask(ActivateKit(kit_id="my-kit", user_values={"name": "Ben"}), principal=ANN)
        (changed,) = await workflows(system)
        assert (changed.id, changed.prompt) == (first.id, "Greet Ben.")
        await system.ask(ActivateKit(kit_id="my-kit"), principal=BEN)
        (switched,) = await workflows(system)
        assert (switched.prompt, switched.principal, switched.scopes) == ("Greet Ben.", "ben", ["kits"])
        with pytest.raises(InvalidInput, match="nothing called 'age'"):
            await system.ask(ActivateKit(kit_id="my-kit", user_values={"age": "7"}))
        await system.ask(DeactivateKit(kit_id="my-kit"))
        assert await workflows(system) == []
        kit = (await system.ask(GetKit(kit_id="my-kit"))).kit
        assert (kit.active, kit.user_values) == (False, {"name": "Ben"})


async def test_values_that_make_no_instruction_leave_the_kit_as_it_was(daemon: Open) -> None:
    text = MINE.replace('"Greet {{name}}."', '"{{name}}"')
    async with daemon() as system:
        await system.ask(InstallKit(yaml=text))
        with pytest.raises(InvalidInput, match="instruction of 1 to"):
            await system.ask(ActivateKit(kit_id="my-kit", user_values={"name": ""}))
        stored = await system.ask(GetStoredKit(kit_id="my-kit"))
        assert (stored.active, stored.settled, stored.user_values) == (False, True, {"name": "Ann"})


async def test_a_switch_that_the_scheduler_missed_is_made_good_as_soon_as_it_can_be(
    daemon: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.actors.kits.keeper.SETTLE_S", 0.05)
    is_down = [True]
    set_workflows = Scheduler.set_workflows

    async def down_at_first(self: Scheduler, message: SetWorkflows) -> Done:
        if is_down:
            raise Unavailable("the scheduler is away")
        return await set_workflows(self, message)

    monkeypatch.setattr(Scheduler.handlers[SetWorkflows], "function", down_at_first)
    async with daemon() as system:
        await system.ask(InstallKit(yaml=MINE))
        with pytest.raises(Unavailable, match="is away"):
            await system.ask(ActivateKit(kit_id="my-kit"), principal=ANN)
        assert await workflows(system) == []
        is_down.clear()
        with trio.fail_after(10):
            while not (await system.ask(GetStoredKit(kit_id="my-kit"))).settled:  # noqa: ASYNC110 it is on disk
                await trio.sleep(0.01)
        (job,) = await workflows(system)
        assert (job.prompt, job.principal) == ("Greet Ann.", "ann")


async def test_a_kits_id_is_the_users_or_made_of_its_name(daemon: Open) -> None:
    async with daemon() as system:
        assert (await system.ask(InstallKit(yaml=MINE, kit_id="other"))).id == "other"
        assert (await system.ask(InstallKit(yaml=MINE.replace("My Kit", "Küche & Bad!")))).id == "k-che-bad"
        with pytest.raises(InvalidInput, match="no letter"):
            await system.ask(InstallKit(yaml=MINE.replace("My Kit", "家")))
        with pytest.raises(InvalidInput, match="no kit may be called 'catalog'"):
            await system.ask(InstallKit(yaml=MINE.replace("My Kit", "Catalog")))
        with pytest.raises(InvalidInput, match="not built in"):
            await system.ask(InstallKit(yaml=MINE.replace("For me.", "For me., built_in: true")))


async def test_panels_show_what_the_actors_say_and_no_more_than_who_asks_may_see(daemon: Open) -> None:
    async with daemon() as system:
        await system.ask(InstallKit(yaml=MINE))
        await system.ask(Remind(message="in 2 hours to feed the cat"))
        shown = await system.ask(GetKitData(kit_id="my-kit"))
        assert list(shown.data) == ["api:reminders", "api:sessions", "workflow:greet", "api:health"]
        reminders = msgspec.convert(shown.data["api:reminders"], list[dict[str, object]])
        assert [reminder["text"] for reminder in reminders] == ["Feed the cat"]
        assert shown.data["workflow:greet"] == {"text": None, "at": None, "next_run": None, "session_id": None}
        assert (shown.data["api:sessions"], shown.errors) == ([], {})
        for name in ("reminders", "api:reminders"):
            assert (await system.ask(GetKitSource(kit_id="my-kit", source=name))).data == shown.data["api:reminders"]
        hidden = await system.ask(GetKitData(kit_id="my-kit"), principal=ANN)
        assert hidden.data["api:sessions"] is hidden.data["workflow:greet"] is None
        missing = "Missing required scope: sessions"
        assert hidden.errors == {"api:sessions": missing, "workflow:greet": missing}
        assert len(msgspec.convert(hidden.data["api:reminders"], list[object])) == 1
        with pytest.raises(Forbidden, match="sessions"):
            await system.ask(GetKitSource(kit_id="my-kit", source="sessions"), principal=ANN)
        for name in ("moon", "workflow:moon", "workflow:", "api:", ":"):
            with pytest.raises(NotFound):
                await system.ask(GetKitSource(kit_id="my-kit", source=name))


async def test_a_source_that_hangs_leaves_the_other_panels_their_data(
    daemon: Open, hangs: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pocketpaw.actors.kits.keeper.SOURCE_S", 2.0)  # enough for the others on any machine
    async with daemon() as system:
        await system.ask(InstallKit(yaml=MINE))
        hangs.append(True)
        shown = await system.ask(GetKitData(kit_id="my-kit"))
        hangs.clear()
        assert shown.data["api:health"] is None
        assert list(shown.errors) == ["api:health"]
        assert shown.data["api:reminders"] == []


async def test_a_workflow_that_failed_is_named_until_it_comes_to_a_good_end(
    daemon: Open, answers: Answers, eventually: Callable[[Callable[[], object]], Awaitable[None]]
) -> None:
    async with daemon() as system:
        await system.ask(InstallCatalogKit(kit_id="server-watch"))
        (intention,) = (await system.ask(ListIntentions())).intentions
        assert await system.ask(GetKitProblems()) == []

        async def problems_after_a_run(wanted: int) -> list[str]:
            await system.ask(RunIntention(intention_id=intention.id))
            with trio.fail_after(10):
                while len(problems := await system.ask(GetKitProblems())) != wanted:  # noqa: ASYNC110 the store's
                    await trio.sleep(0.02)
            return problems

        answers.fails = True
        (problem,) = await problems_after_a_run(1)
        assert problem == "the workflow 'Server Watch: report' of the kit server-watch has failed: the model is away"
        answers.fails = False
        await problems_after_a_run(0)
        data = (await system.ask(GetKitSource(kit_id="server-watch", source="workflow:report"))).data
        assert msgspec.convert(data, dict[str, object])["session_id"] == f"intention:{intention.id}"


async def test_a_kit_of_a_version_that_knew_other_fields_is_named_and_can_be_removed(daemon: Open) -> None:
    async with daemon() as system:
        old = StoredKit(
            id="old",
            config={"panels": 7},
            user_values={},
            active=True,
            settled=False,
            principal="ann",
            scopes=[],
            installed_at=utc_now(),
        )
        await system.ask(KeepKit(kit=old))
        await system.ask(InstallKit(yaml=MINE))
        (problem,) = await system.ask(GetKitProblems())
        assert problem.startswith("the kit old cannot be read: ")
        assert [kit.id for kit in (await system.ask(ListKits())).kits] == ["my-kit"]
        with pytest.raises(InvalidInput, match="cannot be read"):
            await system.ask(GetKit(kit_id="old"))
        await system.ask(RemoveKit(kit_id="old"))
        assert await system.ask(GetKitProblems()) == []


@pytest.mark.parametrize("is_active", [True, False])
async def test_a_switch_that_was_cut_off_is_made_good_at_the_next_start(daemon: Open, *, is_active: bool) -> None:
    async with daemon() as system:
        await system.ask(InstallKit(yaml=MINE))
        if not is_active:
            await system.ask(ActivateKit(kit_id="my-kit"), principal=ANN)
        stored = await system.ask(GetStoredKit(kit_id="my-kit"))
        cut_off = {"active": is_active, "settled": False, "principal": "ann", "scopes": ["chat"]}
        await system.ask(ChangeKit(kit=msgspec.structs.replace(stored, **cut_off)))
    async with daemon() as system:
        with trio.fail_after(5):
            while not (await system.ask(GetStoredKit(kit_id="my-kit"))).settled:  # noqa: ASYNC110 it is on disk
                await trio.sleep(0.01)
        assert [(job.principal, job.scopes) for job in await workflows(system)] == [("ann", ["chat"])] * is_active
