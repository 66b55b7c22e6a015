"""The real PocketPaw 0.4.18, made to fill a home as a person does: it is what `pocketpaw import` is for.

It has to be installed in an environment of its own, `pip install 'pocketpaw[openai-agents]==0.4.18'`, whose Python the
variable POCKETPAW_0_4_PYTHON names. The home in `tests/data/pocketpaw-0.4.18` was recorded so: see the README there.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import httpx2
import trio
import trio_websocket

VARIABLE = "POCKETPAW_0_4_PYTHON"
RECORDED = Path(__file__).parents[1] / "data" / "pocketpaw-0.4.18" / "home"
START_S = 60.0
CHAT_S = 60.0
MACHINE, USER = "fixture-machine", "fixture-user"
"""What the recorded secrets are sealed for, instead of for this machine and its user."""

SECRET = "sk-only-a-test-0123456789abcdef"
KEY_SCOPES = ["chat", "sessions"]
USER_TEXT = "Name: Ann\nTimezone: Europe/Berlin\nPreferences: short answers\n"

SERVE = """
import sys
from pocketpaw.__main__ import main
sys.argv = ["pocketpaw", *sys.argv[1:]]
sys.exit(main())
"""
ANOTHER_MACHINE = f"""
import os
from pocketpaw.credentials import CredentialStore
CredentialStore._get_machine_id = lambda self: {MACHINE!r}
os.getlogin = lambda: {USER!r}
"""
"""Before `SERVE`: so that what is recorded says nothing of where it was."""
REMEMBER = """
import asyncio
from pocketpaw.memory.manager import MemoryManager
from pocketpaw.memory.file_store import FileMemoryStore
from pocketpaw.scheduler import ReminderScheduler, load_reminders
async def go():
    memory = MemoryManager(FileMemoryStore())
    await memory.remember("Ann's bicycle is green and has a child seat.", tags=["bicycle", "family"])
    await memory.remember("The boiler is serviced each October.", tags=["house"])
    await memory.remember("Bob likes chess.", sender_id="telegram:7")
    await memory.note("Called the plumber, who comes on Friday.", tags=["house"])
asyncio.run(go())
reminders = ReminderScheduler()
reminders.reminders = load_reminders()
reminders.add_recurring("Water the plants", "weekday_morning_8am")
"""


def recorded_home(folder: Path) -> Path:
    """A copy, below `folder`, of the home that was recorded: as if that folder were its user's."""
    home = folder / ".pocketpaw"
    shutil.copytree(RECORDED, home)
    config = home / "config.json"
    config.write_text(config.read_text().replace("/home/ann", str(folder)))
    return home


class OlderPocketPaw:
    """One home of it, below `folder`."""

    def __init__(self, python: str, folder: Path, model_url: str, program: str = SERVE) -> None:
        self._python = python
        self._program = program
        self._folder = folder
        self.home = folder / ".pocketpaw"
        self.home.mkdir(parents=True)
        settings = {
            "agent_backend": "openai_agents",
            "openai_agents_provider": "openai_compatible",
            "llm_provider": "openai_compatible",
            "openai_compatible_base_url": model_url,
            "openai_compatible_api_key": SECRET,
            "openai_compatible_model": "fake",
            "soul_enabled": False,
        }
        (self.home / "config.json").write_text(json.dumps(settings))

    def fill(self, port: int) -> None:
        """Chat, set reminders and intentions, change settings, and remember things; then stop."""
        command = [self._python, "-c", self._program, "serve", "--host", "127.0.0.1", "--port", str(port)]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen(command, env=self._environment(), stdout=log, stderr=log, cwd=self._folder)
        try:
            with httpx2.Client(base_url=f"http://127.0.0.1:{port}/api/v1", trust_env=False, timeout=30) as http:
                self._wait(process, http)
                token = (self.home / "access_token").read_text().strip()
                http.headers["Authorization"] = f"Bearer {token}"
                self._live(http, f"ws://127.0.0.1:{port}/api/v1/ws?token={token}")
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        subprocess.run([self._python, "-c", REMEMBER], env=self._environment(), check=True, capture_output=True)

    def _live(self, http: httpx2.Client, url: str) -> None:
        trio.run(self._chat, url, "hello from the old home", "and a second question")
        trio.run(self._chat, url, "another conversation")
        for path, body in (
            ("reminders", {"message": "remind me in 20000 days to renew the passport"}),
            ("intentions", intention("Morning", "What is on today?", "0 8 * * 1-5")),
            ("intentions", {**intention("Off", "Tidy up.", "every_night_10pm"), "enabled": False}),
            ("mcp/add", {"name": "clock", "command": "uvx", "args": ["mcp-clock"], "enabled": False}),
            ("auth/api-keys", {"name": "panel", "scopes": KEY_SCOPES}),
        ):
            http.post(path, json=body).raise_for_status()
        http.put("identity", json={"user_file": USER_TEXT}).raise_for_status()
        changed = {"media_max_file_size_mb": 77, "web_search_provider": "brave"}
        http.put("settings", json={"settings": changed}).raise_for_status()

    async def _chat(self, url: str, *messages: str) -> None:
        with trio.fail_after(CHAT_S):
            async with trio_websocket.open_websocket_url(url) as socket:
                for message in messages:
                    await socket.send_message(json.dumps({"action": "chat", "message": message}))
                    while json.loads(await socket.get_message())["type"] != "stream_end":
                        pass

    def _wait(self, process: subprocess.Popen[bytes], http: httpx2.Client) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                if http.get("health").is_success:
                    return
            except httpx2.TransportError:
                pass  # it does not listen yet
            log = (self._folder / "log").read_text(errors="replace")
            assert process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)

    def _environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self._folder), "USER": USER}


def intention(name: str, prompt: str, schedule: str) -> dict[str, object]:
    return {
        "name": name,
        "prompt": prompt,
        "trigger": {"type": "cron", "schedule": schedule},
        "context_sources": ["system_status"],
        "enabled": True,
    }
