"""The secrets of PocketPaw 0.4, sealed by the real package."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from pocketpaw.actors.importing.old_secrets import Owner, SecretsSealed, likely_owners, read_secrets

from ...journeys.older_pocketpaw import MACHINE, RECORDED, SECRET, USER

OWNER = Owner(MACHINE, USER)
VERSIONS = {1: RECORDED.parent / "secrets-v1", 2: RECORDED}


@pytest.fixture(params=VERSIONS)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name in ("secrets.enc", ".salt"):
        shutil.copy(VERSIONS[request.param] / name, tmp_path)
    return tmp_path


def test_they_are_opened_for_the_machine_and_user_that_sealed_them(home: Path) -> None:
    assert read_secrets(home, [Owner(MACHINE, "another"), OWNER]) == {"openai_compatible_api_key": SECRET}
    assert sorted(path.name for path in home.iterdir()) == [".salt", "secrets.enc"]


def test_for_anybody_else_they_stay_closed(home: Path) -> None:
    with pytest.raises(SecretsSealed, match="another machine"):
        read_secrets(home, [Owner("another", USER), Owner(MACHINE, "another")])


def test_damage_is_told_from_a_wrong_key_where_it_can_be(home: Path) -> None:
    sealed = (home / "secrets.enc").read_bytes()
    for damaged in (sealed[:10], b"what", sealed[:-4]):
        (home / "secrets.enc").write_bytes(damaged)
        with pytest.raises(SecretsSealed):
            read_secrets(home, [OWNER])


def test_without_the_salt_they_cannot_be_opened_and_without_the_file_there_are_none(home: Path) -> None:
    (home / ".salt").unlink()
    with pytest.raises(SecretsSealed, match=r"\.salt"):
        read_secrets(home, [OWNER])
    (home / "secrets.enc").write_bytes(b"")
    assert read_secrets(home, [OWNER]) == {}
    (home / "secrets.enc").unlink()
    assert read_secrets(home, [OWNER]) == {}


def test_this_machine_and_its_user_are_tried_each_once() -> None:
    owners = likely_owners()
    assert owners
    assert len({(owner.machine, owner.user) for owner in owners}) == len(owners)
