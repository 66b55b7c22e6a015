from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest
import trio
from pocketpaw.actors.health import RecordProblem
from pocketpaw.actors.settings import LiveSettings
from pocketpaw.actors.skills import archive, files, sources
from pocketpaw.actors.skills import keeper as skills_module
from pocketpaw.actors.skills.keeper import (
    InstallSkill,
    InstallUpload,
    ListSkills,
    ReadSkill,
    ReloadSkills,
    RemoveSkill,
    SearchSkills,
    Skills,
)
from pocketpaw.actors.tools import egress, skill_reader
from pocketpaw.actors.tools.addresses import Address
from pocketpaw.actors.tools.protocol import Execute, ToolOutput
from pocketpaw.actors.tools.skill_reader import SkillReader
from pocketpaw.runtime import Actor, ActorSystem, Child, Done, Supervisor
from pocketpaw.runtime.errors import (
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    PocketPawError,
    TimedOut,
    TooLarge,
    Unavailable,
)

from ...fakes.git_server import FakeGitServer, fake_git_server

Running = Callable[..., AbstractAsyncContextManager[ActorSystem]]
Eventually = Callable[[Callable[[], object]], Awaitable[None]]
MakeLive = Callable[..., LiveSettings]
Keep = AbstractAsyncContextManager[ActorSystem]


def skill(name: str, description: str = "Writes poems.", more: str = "") -> str:
    return f"---\nname: {name}\ndescription: {description}\n{more}---\n# How\n\nDo it well.\n"


def write_skill(folder: Path, name: str, description: str = "Writes poems.", more: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "SKILL.md").write_text(skill(name, description, more))
    return folder


class FakeHealth(Actor):
    def __init__(self, problems: list[str]) -> None:
        super().__init__()
        self._problems = problems

    async def record_problem(self, message: RecordProblem) -> Done:
        self._problems.append(message.message)
        return Done()


class Bench:
    """The skills' actor over a home, and a jail beside it."""

    def __init__(self, tmp_path: Path, make_live: MakeLive, running: Running) -> None:
        self.jail = tmp_path / "jail"
        self.jail.mkdir()
        self.live = make_live(file_jail_path=str(self.jail))
        self.root = self.live.home.skills
        self.problems: list[str] = []
        self._running = running

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[ActorSystem]:
        tools = Supervisor("tools", [Child(SkillReader, id="skills")])
        children = [Child(FakeHealth, self.problems, id="health"), Child(Skills, self.live, shutdown_s=0.5), tools]
        async with self._running(Supervisor("root", children)) as system:
            yield system
            assert [path.name for path in self.root.iterdir() if path.name.startswith(".")] == []

    def write(self, folder: str, name: str, description: str = "Writes poems.", more: str = "") -> Path:
        return write_skill(self.root / folder, name, description, more)

    def offer(self, folder: str, name: str, description: str = "Writes poems.", more: str = "") -> Path:
        return write_skill(self.jail / folder, name, description, more)


@pytest.fixture
def bench(tmp_path: Path, make_live: MakeLive, running: Running) -> Bench:
    return Bench(tmp_path, make_live, running)


async def names(system: ActorSystem) -> list[str]:
    return [skill.name for skill in await system.ask(ListSkills()) if not skill.error]


# What there is --------------------------------------------------------------------------------------------------------


async def test_the_skills_of_the_folder_are_listed_and_searched(bench: Bench) -> None:
    more = "argument-hint: [file]\nallowed-tools: Read, Bash(git *)\nlicense: MIT\n"
    bench.write("poems", "poems", "Writes poems\n  about rain.", more)
    bench.write("rain", "rain", "Looks whether it rains.")
    (bench.root / "readme.txt").write_text("no skill")
    async with bench.open() as system:
        poems, rain = await system.ask(ListSkills())
        assert (poems.name, poems.description, poems.error) == ("poems", "Writes poems about rain.", "")
        assert (poems.argument_hint, poems.tools) == ("[file]", ("Read", "Bash(git *)"))
        found = await system.ask(SearchSkills(q="RAIN"))
        assert (found.skills, found.count) == ([rain, poems], 2)
        assert (await system.ask(SearchSkills(q="poems submarine"))).count == 0
        assert (await system.ask(SearchSkills())).count == 2
    assert bench.problems == []


async def test_a_change_on_disk_is_seen_by_itself_and_at_once_when_asked_for(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.open() as system:
        bench.write("poems", "poems")
        assert (await system.ask(ReloadSkills())).count == 1
        assert await names(system) == ["poems"]
    monkeypatch.setattr(skills_module, "LOOK_S", 0.01)
    async with bench.open() as system:
        (bench.root / "poems/SKILL.md").write_text(skill("verses"))
        bench.write("rain", "rain")
        with trio.fail_after(5):
            while await names(system) != ["rain", "verses"]:  # noqa: ASYNC110 it is the disk that changes
                await trio.sleep(0.01)


async def test_a_broken_skill_is_shown_with_its_error_reported_once_and_harms_no_other(bench: Bench) -> None:
    bench.write("good", "good")
    for folder, text in {
        "bare": "no front matter",
        "bomb": "---\na: &a [x, x]\nb: &b [*a, *a]\nname: *b\ndescription: d\n---\n",
        "merges": "---\na0: &a0 {x: y}\n"
        + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 99))
        + "---\n",
        "deep": "---\nname: " + "[" * 7_000 + "\n---\n",
        "empty": "",
        "lists": "---\n- name\n---\n",
        "mute": "---\nname: mute\n---\n",
        "shouts": skill("LOUD"),
        "thief": skill("../thief"),
        "yaml": "---\nname: [\n---\n",
    }.items():
        bench.write(folder, "x")
        (bench.root / folder / "SKILL.md").write_text(text)
    (bench.root / "none").mkdir()
    bench.write("image", "image")
    (bench.root / "image/SKILL.md").write_bytes(b"\x89PNG\0\0")
    bench.write("long", "long", "x" * 1_025)
    bench.write("other", "good")
    async with bench.open() as system:
        listed = await system.ask(ListSkills())
        errors = {skill.name: skill.error for skill in listed if skill.error}
        assert await names(system) == ["good"]
        assert len(errors) == 14
        assert "has a skill of the same name, 'good'" in errors["other"]
        assert "front matter" in errors["bare"]
        assert "no description" in errors["mute"]
        assert "'LOUD'" in errors["shouts"]
        await system.ask(ReloadSkills())
        with pytest.raises(Unavailable, match="cannot be used"):
            await system.ask(ReadSkill(name="mute"))
        await system.ask(RemoveSkill(name="mute"))
    assert len(bench.problems) == 14


async def test_a_skill_is_read_by_the_agent_a_part_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.write("poems", "poems")
    (folder / "scripts").mkdir()
    (folder / "scripts/rhyme.py").write_text("print('rain')")
    (folder / "blob").write_bytes(b"\0\1")
    secret = bench.root.parent / "access_token"
    (folder / "link").symlink_to(secret)

    async with bench.open() as system:

        async def read(**arguments: object) -> str:
            call = Execute(name="read_skill", arguments=arguments, session_id="s-1", turn_id="t-1")
            async with system.stream(call, to="tools/skills") as events:
                (output,) = [event async for event in events if isinstance(event, ToolOutput)]
            assert output.source == ""
            return output.text

        whole = await read(name="poems")
        assert whole.startswith(skill("poems"))
        assert whole.endswith(f"(This skill's folder is {folder}.)\n\n(Its other files: blob, link, scripts/rhyme.py)")
        assert await read(name="poems", file="scripts/rhyme.py") == "print('rain')"
        monkeypatch.setattr(skill_reader, "OUTPUT_LIMIT", 10)
        assert (await read(name="poems", start=4)).startswith(
            "name: poem\n\n(52 more characters follow: read on with start=14)"
        )
        refused: dict[str, type[PocketPawError]] = {
            "../../access_token": Forbidden,
            "/etc/passwd": Forbidden,
            "link": Forbidden,
            "nosuch": NotFound,
            "blob": InvalidInput,
            "\0": InvalidInput,
        }
        for file, kind in refused.items():
            with pytest.raises(kind):
                await read(name="poems", file=file)
        with pytest.raises(NotFound, match="there are: poems"):
            await read(name="nosuch")


# From this machine ----------------------------------------------------------------------------------------------------


async def test_a_folder_is_installed_without_what_is_hidden_and_removed(bench: Bench) -> None:
    folder = bench.offer("mine", "poems")
    (folder / "run.sh").write_text("true")
    (folder / "run.sh").chmod(0o755)
    (folder / ".git").mkdir()
    async with bench.open() as system:
        installed = await system.ask(InstallSkill(source=str(folder)))
        assert ([one.name for one in installed.installed], installed.skipped) == (["poems"], [])
        assert sorted(path.name for path in (bench.root / "poems").iterdir()) == ["SKILL.md", "run.sh"]
        assert stat.S_IMODE((bench.root / "poems/run.sh").stat().st_mode) == 0o700
        assert stat.S_IMODE((bench.root / "poems/SKILL.md").stat().st_mode) == 0o600
        assert await names(system) == ["poems"]
        await system.ask(RemoveSkill(name="poems"))
        assert await names(system) == []
        assert list(bench.root.iterdir()) == []
        with pytest.raises(NotFound):
            await system.ask(RemoveSkill(name="poems"))


async def test_what_is_there_stays_unless_it_is_to_be_replaced(bench: Bench) -> None:
    bench.write("old-folder", "poems", "Old.")
    bench.offer("all/poems", "poems", "New.")
    bench.offer("all/rain", "rain")
    async with bench.open() as system:
        with pytest.raises(Conflict, match="poems"):
            await system.ask(InstallSkill(source=str(bench.jail / "all/poems")))
        both = await system.ask(InstallSkill(source=str(bench.jail / "all")))
        assert [one.name for one in both.installed] == ["rain"]
        assert [(one.name, one.reason) for one in both.skipped] == [("poems", "it is installed already")]
        replaced = await system.ask(InstallSkill(source=str(bench.jail / "all/poems"), replace=True))
        assert [one.description for one in replaced.installed] == ["New."]
        assert sorted(path.name for path in bench.root.iterdir()) == ["poems", "rain"]


async def test_only_what_the_jail_lets_through_is_installed(bench: Bench, tmp_path: Path) -> None:
    outside = write_skill(tmp_path / "outside", "outside")
    (bench.jail / "way-out").symlink_to(outside)
    linked = bench.offer("linked", "linked")
    (linked / "passwd").symlink_to("/etc/passwd")
    piped = bench.offer("piped", "piped")
    os.mkfifo(piped / "pipe")
    (bench.jail / "empty").mkdir()
    broken = bench.offer("broken", "BROKEN")
    async with bench.open() as system:
        for source, kind in {
            str(outside): Forbidden,
            str(bench.jail / "way-out"): Forbidden,
            str(linked): Forbidden,
            str(piped): Forbidden,
            str(bench.jail / "empty"): NotFound,
            str(bench.jail / "nosuch"): NotFound,
            str(broken): InvalidInput,
            "~nobody/x": InvalidInput,
            "": InvalidInput,
            "nonsense": InvalidInput,
            "ftp://example.org/x": InvalidInput,
            "http://example.org/x/y": InvalidInput,
            "https://": InvalidInput,
            "https://example.org": InvalidInput,
            "https://exa mple.org/x": InvalidInput,
            "https://ann:secret@example.org/x": Forbidden,
            "ext::sh -c touch% /tmp/x": InvalidInput,
            "--upload-pack=touch/x": InvalidInput,
            "https://localhost/x/y": Forbidden,
            "https://127.0.0.1:8443/x/y": Forbidden,
        }.items():
            with pytest.raises(kind):
                await system.ask(InstallSkill(source=source))
        assert await names(system) == []


async def test_a_skill_that_is_too_large_is_refused_whole(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = bench.offer("large", "large")
    (folder / "data").write_bytes(b"x" * 5_000)
    monkeypatch.setattr(files, "SIZE_LIMIT_BYTES", 4_000)
    async with bench.open() as system:
        with pytest.raises(TooLarge):
            await system.ask(InstallSkill(source=str(folder)))
        monkeypatch.setattr(files, "SIZE_LIMIT_BYTES", 6_000)
        monkeypatch.setattr(files, "FILES_LIMIT", 1)
        with pytest.raises(TooLarge):
            await system.ask(InstallSkill(source=str(folder)))
        deep = folder
        for _ in range(12):
            deep = deep / "d"
            deep.mkdir()
        monkeypatch.setattr(files, "FILES_LIMIT", 100)
        with pytest.raises(TooLarge):
            await system.ask(InstallSkill(source=str(folder)))
        assert list(bench.root.iterdir()) == []


async def test_what_an_earlier_life_was_cut_short_at_is_swept(bench: Bench) -> None:
    write_skill(bench.root / ".staging-1234/ready/x", "x")
    (bench.root / ".upload-1.zip").write_bytes(b"x")
    bench.write("good", "good")
    async with bench.open() as system:
        assert await names(system) == ["good"]


async def test_a_link_to_a_skill_is_used_and_only_the_link_is_removed(bench: Bench) -> None:
    folder = bench.offer("mine", "poems")
    bench.root.mkdir()
    (bench.root / "poems").symlink_to(folder)
    async with bench.open() as system:
        assert await names(system) == ["poems"]
        await system.ask(RemoveSkill(name="poems"))
    assert (folder / "SKILL.md").exists()


# Zips -----------------------------------------------------------------------------------------------------------------


def zipped(path: Path, *members: tuple[str | zipfile.ZipInfo, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members:
            archive.writestr(name, text, compress_type=zipfile.ZIP_DEFLATED)
    return path


def entry(name: str, mode: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return info


async def test_a_zip_is_installed_from_a_file_or_an_upload(bench: Bench) -> None:
    path = zipped(bench.jail / "poems.zip", ("poems/SKILL.md", skill("poems")), (entry("poems/run", 0o100755), "x"))
    async with bench.open() as system:
        assert [one.name for one in (await system.ask(InstallSkill(source=str(path)))).installed] == ["poems"]
        assert stat.S_IMODE((bench.root / "poems/run").stat().st_mode) == 0o700
        upload = zipped(bench.root / ".upload-1", ("SKILL.md", skill("rain")))
        assert [one.name for one in (await system.ask(InstallUpload(name=upload.name))).installed] == ["rain"]
        upload.unlink()
        for name in ("../config.json", "poems", "/etc/passwd", ".upload-/../../config.json"):
            with pytest.raises(Forbidden):
                await system.ask(InstallUpload(name=name))


def outside_the_home(folder: Path) -> set[Path]:
    return {found for found in folder.rglob("*") if "home" not in found.parts}


HOSTILE: dict[str, tuple[tuple[str | zipfile.ZipInfo, str | bytes], type[PocketPawError]]] = {
    "climbs": (("../../evil", "x"), Forbidden),
    "climbs inside": (("a/../../evil", "x"), Forbidden),
    "absolute": (("/tmp/evil", "x"), Forbidden),
    "backslash": (("..\\evil", "x"), Forbidden),
    "drive": (("C:evil", "x"), Forbidden),
    "link": ((entry("link", stat.S_IFLNK | 0o777), "/etc/passwd"), Forbidden),
    "device": ((entry("device", stat.S_IFCHR | 0o666), ""), Forbidden),
    "long": (("x" * 600, ""), Forbidden),
    "twice": (("SKILL.md/x", ""), InvalidInput),
    "bomb": (("zeros", bytes(30 * 1024 * 1024)), TooLarge),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_zip_is_refused_and_leaves_nothing(bench: Bench, tmp_path: Path, what: str) -> None:
    member, kind = HOSTILE[what]
    path = zipped(bench.jail / "evil.zip", ("SKILL.md", skill("evil")), member)
    before = outside_the_home(tmp_path)
    async with bench.open() as system:
        with pytest.raises(kind):
            await system.ask(InstallSkill(source=str(path)))
        assert list(bench.root.iterdir()) == []
    assert outside_the_home(tmp_path) == before


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
async def test_a_zip_that_is_packed_in_an_odd_way_is_refused(bench: Bench, method: int) -> None:
    path = bench.jail / "odd.zip"
    with zipfile.ZipFile(path, "w", method) as made:
        made.writestr("SKILL.md", skill("odd") * 20)
    data = bytearray(path.read_bytes())
    data[51] ^= 0xFF  # in the packed bytes, which LZMA's reader answers by an error of its own
    path.write_bytes(data)
    async with bench.open() as system:
        with pytest.raises(InvalidInput, match="by deflate"):
            await system.ask(InstallSkill(source=str(path)))
        assert await system.ask(ListSkills()) == []


async def test_names_that_are_no_text_are_shown_escaped(bench: Bench) -> None:
    latin = os.fsdecode(b"caf\xe9")
    bench.write(latin, "coffee")
    (bench.write("poems", "poems") / latin).write_text("x")
    (bench.offer(latin, "tea") / "SKILL.md").write_text("nothing")
    bench.offer("good", "good")
    async with bench.open() as system:
        (odd, _) = await system.ask(ListSkills())
        assert "rename the folder" in odd.error
        assert "udce9" in (await system.ask(ReadSkill(name="poems"))).files[0]
        installed = await system.ask(InstallSkill(source=str(bench.jail)))
        assert "udce9" in installed.skipped[0].name


async def test_a_zip_that_lies_or_is_none_is_refused(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(bench.jail / "x.zip", ("SKILL.md", skill("x")), ("zeros", bytes(3_000_000)))
    data = path.read_bytes()
    (bench.jail / "liar.zip").write_bytes(data.replace((3_000_000).to_bytes(4, "little"), (10).to_bytes(4, "little")))
    (bench.jail / "cut.zip").write_bytes(data[:-40])
    (bench.jail / "text.zip").write_text("hello")
    monkeypatch.setattr(archive, "FILES_LIMIT", 3)
    zipped(bench.jail / "list.zip", *((f"{number:0480}", "") for number in range(4_000)))  # a list of 2.1 MB
    zipped(bench.jail / "many.zip", *((f"file{number}", "") for number in range(4)))
    async with bench.open() as system:
        for name, kinds in {
            "liar.zip": (InvalidInput, TooLarge),
            "cut.zip": (InvalidInput,),
            "text.zip": (InvalidInput,),
            "list.zip": (TooLarge,),
            "many.zip": (TooLarge,),
        }.items():
            with pytest.raises(kinds, match="list of contents" if name == "list.zip" else None):
                await system.ask(InstallSkill(source=str(bench.jail / name)))
        assert list(bench.root.iterdir()) == []


# From git -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def git(bench: Bench, tmp_path: Path) -> Iterator[FakeGitServer]:
    with fake_git_server(tmp_path / "git") as server:
        changed = msgspec.structs.replace(bench.live.current, skills_git_base=server.url)
        bench.live.loaded = msgspec.structs.replace(bench.live.loaded, settings=changed)
        yield server


async def test_a_repository_is_installed_whole_or_a_skill_of_it(bench: Bench, git: FakeGitServer) -> None:
    git.add("ann/one", {"SKILL.md": skill("one"), "notes.md": "x", ".hidden": "x"})
    git.add(
        "ann/many",
        {
            "README.md": "# Skills",
            "skills/poems/SKILL.md": skill("poems"),
            "skills/rain/SKILL.md": skill("rain"),
            "skills/broken/SKILL.md": "nothing",
        },
    )
    async with bench.open() as system:
        assert [one.name for one in (await system.ask(InstallSkill(source="ann/one"))).installed] == ["one"]
        assert sorted(path.name for path in (bench.root / "one").iterdir()) == ["SKILL.md", "notes.md"]
        rain = await system.ask(InstallSkill(source="ann/many/rain"))
        assert [one.name for one in rain.installed] == ["rain"]
        rest = await system.ask(InstallSkill(source=f"{git.url}/ann/many.git"))
        assert [one.name for one in rest.installed] == ["poems"]
        assert [one.name for one in rest.skipped] == ["broken", "rain"]
        replaced = await system.ask(InstallSkill(source=f"{git.url}/ann/many.git#skills/poems", replace=True))
        assert [one.name for one in replaced.installed] == ["poems"]
        with pytest.raises(NotFound, match="no skill 'snow' in it; there are: broken, poems, rain"):
            await system.ask(InstallSkill(source="ann/many/snow"))


async def test_git_is_given_the_host_as_it_was_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is written otherwise it would ask the DNS once more, and could be told something else."""

    async def resolve(_: str) -> list[Address]:
        return [ip_address("9.9.9.9")]

    monkeypatch.setattr(egress, "resolve", resolve)
    asked = tmp_path / "asked"
    git = tmp_path / "bin" / "git"
    git.parent.mkdir()
    git.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {asked}\n')
    git.chmod(0o755)
    monkeypatch.setenv("PATH", f"{git.parent}")
    await sources.clone(sources.GitSource("https://Skills.Test./ann/one", "", is_ours=False), tmp_path / "target")
    arguments = asked.read_text().splitlines()
    assert "http.curloptResolve=skills.test:443:9.9.9.9" in arguments
    assert arguments[-2] == "https://skills.test/ann/one"


async def test_what_a_git_server_may_do_wrong_is_told_and_leaves_nothing(
    bench: Bench, git: FakeGitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    git.add("ann/one", {"SKILL.md": skill("one")})
    git.add("ann/linked", {"SKILL.md": skill("linked")}, {"passwd": "/etc/passwd"})
    git.add("ann/plain", {"README.md": "x"})
    git.add("ann/huge", {"SKILL.md": skill("huge"), "data": os.urandom(300_000)})
    git.moved["ann/gone"] = git.url + "/elsewhere"
    git.locked.add("ann/locked")
    async with bench.open() as system:
        for source, kind in {
            "ann/nosuch": NotFound,
            "ann/locked": NotFound,
            "ann/gone": Forbidden,
            "ann/linked": Forbidden,
            "ann/plain": NotFound,
        }.items():
            with pytest.raises(kind):
                await system.ask(InstallSkill(source=source))
        monkeypatch.setattr(files, "SIZE_LIMIT_BYTES", 100_000)
        with pytest.raises(TooLarge):
            await system.ask(InstallSkill(source="ann/huge"))
        git.silent.set()
        monkeypatch.setattr(sources, "CLONE_TIMEOUT_S", 0.5)
        with pytest.raises(TimedOut):
            await system.ask(InstallSkill(source="ann/one"))
        assert list(bench.root.iterdir()) == []
        git.let_go()
    assert not any("elsewhere" in asked for asked in git.asked)


async def test_a_repository_that_is_too_large_is_not_fetched_to_its_end(
    bench: Bench, git: FakeGitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    git.add("ann/one", {"SKILL.md": skill("one")})
    git.silent.set()  # so that git is still at it when its folder, which has its own few files, is measured
    monkeypatch.setattr(sources, "LOOK_S", 0.05)
    monkeypatch.setattr(sources, "CLONE_LIMIT_ENTRIES", 3)
    async with bench.open() as system:
        with trio.fail_after(10), pytest.raises(TooLarge, match="files"):
            await system.ask(InstallSkill(source="ann/one"))
        git.let_go()


async def test_without_git_the_way_out_is_named(
    bench: Bench, git: FakeGitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    async with bench.open() as system:
        with pytest.raises(Unavailable, match="git is not installed"):
            await system.ask(InstallSkill(source="ann/one"))


async def test_no_process_is_left_when_an_installation_is_cut_short(
    bench: Bench, git: FakeGitServer, eventually: Eventually
) -> None:
    git.silent.set()
    async with bench.open() as system, trio.open_nursery() as nursery:

        async def install() -> None:
            with pytest.raises(PocketPawError):
                await system.ask(InstallSkill(source="ann/one"))

        nursery.start_soon(install)
        await eventually(lambda: git.asked)
        assert await names(system) == []  # it answers meanwhile
        await system.root.restart_child("skills")
        await eventually(lambda: not [path for path in bench.root.iterdir() if path.name.startswith(".")])
        git.let_go()
