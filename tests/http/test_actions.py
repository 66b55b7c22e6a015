"""The WebSocket's actions that are endpoints as well: the same answers, and no more than the same scopes give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pocketpaw.http.actions import ACTIONS
from pocketpaw.http.routes import ROUTES
from pocketpaw.runtime import Principal
from pocketpaw.runtime.errors import Unavailable

from .conftest import Daemon, Serve
from .test_websocket import STRANGER, Socket, connect

SKILL = "---\nname: poems\ndescription: Writes poems.\n---\nRhyme.\n"
SECRET = "sk-secret-1234567890"
SCHEDULED = (
    "get_reminders", "add_reminder", "delete_reminder", "get_intentions", "create_intention", "update_intention",
    "toggle_intention", "delete_intention", "run_intention",
)  # fmt: skip


def put_skill(daemon: Daemon) -> None:
    folder = daemon.live.home.skills / "poems"
    folder.mkdir(parents=True)
    (folder / "SKILL.md").write_text(SKILL)


async def test_settings_are_read_and_changed(serve: Serve) -> None:
    async with serve(openai_compatible_api_key=SECRET) as daemon, daemon.client() as rest, connect(daemon) as client:
        await client.hear()
        await client.say(action="get_settings")
        shown = (await client.hear_until("settings"))[-1]
        assert shown == {"type": "settings", "content": (await rest.get("/api/v1/settings")).json()}
        assert SECRET not in str(shown)
        for said in ({"tool_profile": "minimal"}, {"settings": {"tool_profile": "coding"}}):
            await client.say(action="settings", **said)
            saved = (await client.hear_until("settings_saved"))[-1]
            assert (saved["updated"], saved["warnings"]) == (["tool_profile"], [])
        assert daemon.live.current.tool_profile == "coding"
        await client.say(type="settings", web_host="127.0.0.2")
        assert (await client.hear_until("settings_saved"))[-1]["warnings"] == [
            "web_host takes effect at the next start"
        ]
        await client.say(action="settings", openai_compatible_api_key=shown["content"]["openai_compatible_api_key"])
        assert (await client.hear_until("settings_saved"))[-1]["updated"] == []


@pytest.mark.parametrize(
    ("said", "detail"),
    [
        ({"tool_profile": "huge"}, "tool_profile: expected minimal, coding or full, got 'huge'"),
        ({"nosuch": 1}, "nosuch: there is no such setting"),
    ],
)
async def test_a_setting_that_cannot_be_is_named(serve: Serve, said: dict[str, object], detail: str) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        await client.say(action="settings", **said)
        error = (await client.hear_until("error"))[-1]
        assert error == {"type": "error", "detail": detail, "code": "invalid_input"}


async def test_health_is_told_and_checked(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as rest, connect(daemon) as client:
        await client.hear()
        await client.say(action="get_health")
        await client.say(action="ping")
        told = [one["data"] for one in await client.hear_until("pong") if one["type"] == "health_update"]
        shown = (await rest.get("/api/v1/health")).json()
        assert shown.keys() == told[-1].keys()
        await client.say(action="run_health_check")
        while (await client.hear_until("health_update"))[-1]["data"]["last_check"] <= shown["last_check"]:
            pass  # of a check that was at work already
        await client.say(action="get_health_errors", limit=5, search="no such")
        assert (await client.hear_until("health_errors"))[-1] == {"type": "health_errors", "errors": []}
        await client.say(action="get_health_errors", limit=0)
        assert (await client.hear_until("error"))[-1]["detail"].startswith("limit: ")


async def test_a_skill_is_listed_and_run(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as rest, connect(daemon) as client:
        put_skill(daemon)
        await rest.post("/api/v1/skills/reload")
        session_id = (await client.hear())["session_id"]
        await client.say(action="get_skills")
        skills = (await client.hear_until("skills"))[-1]
        assert skills == {"type": "skills", "skills": (await rest.get("/api/v1/skills")).json()}
        await client.say(action="run_skill", name="poems", args="about rain")
        heard = await client.hear_until("stream_end")
        assert {one["session_id"] for one in heard} == {session_id}
        (asked,) = daemon.model.asked
        assert "'poems'" in asked
        assert "read_skill" in asked
        assert asked.endswith("\n\nabout rain")


@pytest.mark.parametrize(
    ("said", "code"),
    [({"name": "nosuch"}, "not_found"), ({}, "invalid_input"), ({"name": "x", "args": 7}, "invalid_input")],
)
async def test_a_skill_that_cannot_be_run_is_said(serve: Serve, said: dict[str, object], code: str) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        await client.say(action="run_skill", **said)
        assert (await client.hear_until("error"))[-1]["code"] == code
        assert daemon.model.asked == []


async def test_a_folder_is_browsed(serve: Serve, tmp_path: Path) -> None:
    jail = tmp_path / "jail"
    (jail / "sub").mkdir(parents=True)
    async with serve(file_jail_path=str(jail)) as daemon, daemon.client() as rest, connect(daemon) as client:
        await client.hear()
        listed = (await rest.get("/api/v1/files/browse", params={"path": str(jail)})).json()
        assert [entry["name"] for entry in listed["files"]] == ["sub"]
        await client.say(action="browse", path=str(jail), context="modal")
        told = {name: listed[name] for name in ("path", "files", "error")}
        assert (await client.hear_until("files"))[-1] == {"type": "files", **told, "context": "modal"}
        await client.say(action="browse", path="/etc")
        refused = (await client.hear_until("files"))[-1]
        assert (refused["code"], refused.keys()) == ("forbidden", {"type", "error", "code"})


async def test_a_folder_is_told_as_text(serve: Serve, tmp_path: Path) -> None:
    jail = tmp_path / "jail"
    (jail / "sub").mkdir(parents=True)
    (jail / "x.txt").write_text("abc")
    async with serve(file_jail_path=str(jail)) as daemon, connect(daemon) as client:
        await client.hear()
        await client.say(action="navigate", path=str(jail))
        told = (await client.hear_until("message"))[-1]
        assert told == {"type": "message", "content": f"**{jail}**\n\nsub/\nx.txt (3 B)"}
        await client.say(action="navigate", path="/etc")
        refused = (await client.hear_until("message"))[-1]
        assert (refused["code"], refused.keys()) == ("forbidden", {"type", "content", "code"})


async def test_reminders_are_made_listed_and_deleted(serve: Serve) -> None:
    async with serve() as daemon, daemon.client() as rest, connect(daemon) as client:
        await client.hear()
        await client.say(action="add_reminder", message="in 3 hours feed the cat")
        reminder = (await client.hear_until("reminder_added"))[-1]["reminder"]
        listed = (await rest.get("/api/v1/reminders")).json()["reminders"]
        assert [one["id"] for one in listed] == [reminder["id"]]
        await client.say(action="get_reminders")
        told = (await client.hear_until("reminders"))[-1]["reminders"]
        assert [one["id"] for one in told] == [reminder["id"]]
        await client.say(action="delete_reminder", id=reminder["id"])
        assert (await client.hear_until("reminder_deleted"))[-1]["id"] == reminder["id"]
        for said in (
            {"action": "add_reminder", "message": "no time here"},
            {"action": "delete_reminder", "id": reminder["id"]},
        ):
            await client.say(**said)
            assert (await client.hear_until("reminder_error"))[-1]["content"]
        await client.say(action="delete_reminder")
        assert (await client.hear_until("reminder_error"))[-1]["code"] == "invalid_input"


async def test_intentions_are_made_changed_run_and_deleted(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        trigger = {"type": "cron", "schedule": "0 9 * * *"}
        await client.say(action="create_intention", name="Morning", prompt="say hi", trigger=trigger)
        made = (await client.hear_until("intention_created"))[-1]["intention"]
        assert (made["name"], made["trigger"], made["enabled"]) == ("Morning", trigger, True)
        await client.say(action="get_intentions")
        assert [one["id"] for one in (await client.hear_until("intentions"))[-1]["intentions"]] == [made["id"]]
        await client.say(action="toggle_intention", id=made["id"])
        assert (await client.hear_until("intention_toggled"))[-1]["intention"]["enabled"] is False
        await client.say(action="update_intention", id=made["id"], updates={"name": "Evening"})
        changed = (await client.hear_until("intention_updated"))[-1]["intention"]
        assert (changed["name"], changed["prompt"]) == ("Evening", "say hi")
        await client.say(action="run_intention", id=made["id"])
        started = (await client.hear_until("intention_started"))[-1]
        assert (started["intention_id"], started["intention_name"]) == (made["id"], "Evening")
        completed = (await client.hear_until("intention_completed"))[-1]
        assert (completed["intention_id"], completed["state"]) == (made["id"], "done")
        await client.say(action="delete_intention", id=made["id"])
        assert (await client.hear_until("intention_deleted"))[-1]["id"] == made["id"]
        await client.say(action="delete_intention", id=made["id"])
        assert (await client.hear_until("error"))[-1]["code"] == "not_found"


async def test_what_an_actor_refuses_is_said(serve: Serve) -> None:
    async with serve() as daemon, connect(daemon) as client:
        await client.hear()
        del daemon.system.nodes["skills"]
        await client.say(action="get_skills")
        await client.hear_until("error")
        await client.say(action="ping")
        await client.hear_until("pong")


# Scopes ---------------------------------------------------------------------------------------------------------------


def test_an_action_has_the_scope_of_its_endpoint() -> None:
    scopes = {route.scope for route in ROUTES if not route.at_root}
    assert {name: action.scope for name, action in ACTIONS.items()} == {
        "get_settings": "settings:read",
        "settings": "settings:write",
        "get_health": None,
        "run_health_check": "metrics",
        "get_health_errors": "metrics",
        "get_skills": "skills",
        "browse": "files:read",
        "navigate": "files:read",
        **dict.fromkeys(SCHEDULED, "reminders"),
    }
    assert {action.scope for action in ACTIONS.values()} <= scopes


async def refusals(client: Socket, *said: Mapping[str, object]) -> list[str]:
    answers: list[str] = []
    for one in said:
        await client.say(**one)
        error = (await client.hear_until("error"))[-1]
        assert error["code"] == "forbidden"
        answers.append(error["detail"].removeprefix("Missing required scope: "))
    return answers


async def test_a_client_with_fewer_scopes_gets_no_more_here_than_from_the_endpoints(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as daemon, daemon.client() as owner:
        put_skill(daemon)
        await owner.post("/api/v1/skills/reload")
        await owner.post("/api/v1/chat", json={"content": "my diary", "session_id": "mine"})
        monkeypatch.setattr("pocketpaw.actors.access.guard.MASTER", Principal("narrow", frozenset({"chat"})))
        async with connect(daemon, f"token={daemon.live.access_token}", headers=STRANGER) as client:
            await client.hear()
            needed = await refusals(
                client,
                {"action": "get_settings"},
                {"action": "settings", "tool_profile": "full"},
                {"action": "run_health_check"},
                {"action": "get_health_errors"},
                {"action": "get_skills"},
                {"action": "browse"},
                {"action": "navigate"},
                *({"action": action} for action in SCHEDULED),
                {"action": "run_skill", "name": "poems"},
                {"action": "switch_session", "session_id": "mine"},
                {"type": "subscribe", "channels": ["agent.status"]},
            )
            assert needed == [
                "settings:read", "settings:write", "metrics", "metrics", "skills", "files:read", "files:read",
                *["reminders"] * 9, "skills", "sessions", "sessions",
            ]  # fmt: skip
            for name in ("notification", "intention_started", "health_update"):
                event = {"event_type": name, "content": "pills at noon", "metadata": {"status": "told"}}
                daemon.system.bus.publish("events", name, event)
            heard = await client.hear_until("health_update")
            while heard[-1]["data"]["status"] != "told":
                heard += await client.hear_until("health_update")
            assert "pills" not in str(heard)
            await client.say(action="get_health")
            await client.hear_until("health_update")
            await client.say(action="chat", content="hello")
            await client.hear_until("stream_end")
        assert daemon.live.current.tool_profile == "full"
        assert daemon.model.asked == ["my diary", "hello"]


async def test_a_client_that_may_not_read_sessions_goes_on_with_its_own_and_is_shown_no_history(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as daemon, daemon.client() as owner:
        await owner.post("/api/v1/chat", json={"content": "my diary", "session_id": "mine"})
        monkeypatch.setattr("pocketpaw.actors.access.guard.MASTER", Principal("narrow", frozenset({"chat"})))
        query = f"token={daemon.live.access_token}&resume_session=mine"
        async with connect(daemon, query, headers=STRANGER) as client:
            assert (await client.hear())["session_id"] == "mine"
            daemon.model.fails = Unavailable("not now")
            await client.say(action="chat", content="hello")
            heard = await client.hear_until("stream_end")
        assert "session_history" not in {one["type"] for one in heard}
        assert "my diary" not in str(heard)
