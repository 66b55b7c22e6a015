"""What a kit may say, and that what is wrong with one is named."""

from __future__ import annotations

import time
from datetime import UTC

import pytest
from pocketpaw.actors.kits.catalogue import built_in_kits
from pocketpaw.actors.kits.format import LIMIT_BYTES, KitConfig, read_kit
from pocketpaw.actors.kits.sources import SOURCES
from pocketpaw.actors.scheduler.slots import read_cron
from pocketpaw.runtime.errors import InvalidInput, TooLarge

HEAD = "meta: {name: Mine, description: For me.}\n"
LAYOUT = "layout: {sections: []}\n"
KIT = HEAD + LAYOUT


def panel(text: str) -> str:
    return f"{HEAD}layout: {{sections: [{{title: One, panels: [{text}]}}]}}\n"


def workflow(text: str) -> str:
    return f"{KIT}workflows: {{mine: {text}}}\n"


def fields(text: str) -> str:
    return f"{KIT}user_config: {text}\n"


def test_the_least_that_a_kit_says_is_a_name_what_it_is_for_and_its_panels() -> None:
    kit = read_kit(KIT)
    assert (kit.meta.name, kit.meta.version, kit.meta.built_in) == ("Mine", "1.0.0", False)
    assert (kit.layout.columns, kit.workflows, kit.user_config) == (2, {}, None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "got `null`"),
        ("- a", "got `array`"),
        (LAYOUT, "required field `meta`"),
        (HEAD, "required field `layout`"),
        ("meta: {name: Mine, description: For me., version: 1.0}\n" + LAYOUT, "got `float` - at `$.meta.version`"),
        ("meta: {name: '', description: For me.}\n" + LAYOUT, "at `$.meta.name`"),
        (KIT + "worflows: {}", "unknown field `worflows`"),
        (panel("{id: a, type: pie}"), "'pie' - at `$.layout.sections[0].panels[0].type`"),
        (panel("{id: a, type: feed}"), "required field `source` - at `$.layout.sections[0].panels[0]`"),
        (panel("{id: a, type: feed, source: 'api:moon'}"), "'api:moon'; of this kind there are api:metrics"),
        (panel("{id: a, type: feed, source: 'workflow:x'}"), "there are none - at `$.layout.sections[0].panels[0].s"),
        (panel("{id: a, type: metrics-row, items: [{label: x, source: 'api:x', field: y}]}"), "items[0].source`"),
        (workflow("{schedule: 0 9 * * *}"), "required field `instruction` - at `$.workflows.mine`"),
        (workflow("{schedule: 0 9 * * *, instruction: x, shedule: y}"), "`shedule` - at `$.workflows.mine`"),
        (workflow("{schedule: daily, instruction: x}"), "no cron line"),
        (workflow("{schedule: 0 9 31 2 *, instruction: x}"), "at `$.workflows.mine.schedule`"),
        (workflow("{schedule: 0 9 * * *, instruction: 'for {{whom}}'}"), "{{whom}} is no key of user_config"),
        (fields("[{key: a, label: A, type: secret}]"), "'secret' - at `$.user_config[0].type`"),
        (fields("[{key: a, label: A}, {key: a, label: B}]"), "each key may stand once"),
        ("meta: {name: [}", "line 1: "),
        ("a: &a [x]\nb: *a", "line 2: aliases"),
        ("[" * 5_000, "nested too deep"),
        ("a: \0", "special characters are not allowed"),
        ("a: 2026-99-99", "month must be in 1..12"),
        ("!!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: {[x]: y}", "unhashable"),
        (KIT + "integrations: {a: 18446744073709551616}", "cannot be kept: "),
        (KIT + "integrations: {a: {null: b}}", "cannot be kept: "),
        (KIT + "integrations: {a: {true: b}}", "cannot be kept: "),
        (KIT + 'integrations: {a: "\\ud800"}', "cannot be kept: "),
        (HEAD.replace("Mine", '"\\ud800"') + LAYOUT, "cannot be kept: "),
    ],
)
def test_what_is_wrong_with_a_kit_is_named_with_its_place(text: str, problem: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        read_kit(text)
    assert problem in refused.value.detail
    assert refused.value.data["field"] == "yaml"


def test_a_default_that_the_kit_itself_does_not_allow_is_refused() -> None:
    with pytest.raises(InvalidInput, match="expected a number"):
        read_kit(fields("[{key: a, label: A, type: number, default: many}]"))


def test_a_kit_has_a_size_limit() -> None:
    read_kit(KIT + "#" * (LIMIT_BYTES - len(KIT)))
    with pytest.raises(TooLarge, match="64 KiB"):
        read_kit(KIT + "#" * (LIMIT_BYTES - len(KIT) + 1))


def test_entities_that_stand_for_each_other_are_not_unfolded() -> None:
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
    )
    before = time.monotonic()
    with pytest.raises(InvalidInput, match="aliases"):
        read_kit(bomb)
    assert time.monotonic() - before < 5


def test_braces_that_are_not_closed_cost_no_time() -> None:
    before = time.process_time()
    read_kit(workflow(f"{{schedule: 0 9 * * *, instruction: '{'{{' + ' ' * 19_900}'}}"))
    assert time.process_time() - before < 2


@pytest.mark.parametrize("value", ["", "x" * 2_000])
def test_values_that_leave_nothing_to_say_or_too_much_are_refused(value: str) -> None:
    text = workflow(f"{{schedule: 0 9 * * *, instruction: '{'{{name}}' * 51}'}}")
    kit = read_kit(text + "user_config: [{key: name, label: N}]")
    with pytest.raises(InvalidInput, match=r"instruction of 1 to 100,000 characters, got (0|102000)") as refused:
        kit.instruction(kit.workflows["mine"], {"name": value})
    assert refused.value.data["field"] == "user_values"


def test_the_users_values_stand_in_the_instructions() -> None:
    text = workflow("{schedule: 0 9 * * *, instruction: 'Greet {{ name }} in {{tone}} words.'}")
    text += "user_config: [{key: name, label: N, default: Ann}, {key: tone, label: T, type: select, options: [few]}]"
    kit = read_kit(text)
    values = kit.values({"tone": "few"})
    assert values == {"name": "Ann", "tone": "few"}
    assert kit.instruction(kit.workflows["mine"], values) == "Greet Ann in few words."
    for given, problem in (({"tone": "many"}, "one of few"), ({"age": "7"}, "nothing called 'age'")):
        with pytest.raises(InvalidInput, match=problem) as refused:
            kit.values(given)
        assert refused.value.data["field"] == ["user_values", *given]
    with pytest.raises(InvalidInput, match="2,000"):
        kit.values({"name": "x" * 2_001})


@pytest.mark.parametrize("kit_id", sorted(built_in_kits()))
def test_each_kit_of_the_catalogue_says_who_made_it_and_what_it_shows(kit_id: str) -> None:
    kit: KitConfig = built_in_kits()[kit_id]
    assert kit.meta.built_in
    assert kit.meta.author == "PocketPaw"
    assert kit.layout.sections
    assert all(source.removeprefix("api:") in SOURCES or source.startswith("workflow:") for source in kit.sources())
    shown = {source.removeprefix("workflow:") for source in kit.sources() if source.startswith("workflow:")}
    assert shown == set(kit.workflows), "what a workflow says is shown"
    for one in kit.workflows.values():
        read_cron(one.schedule, UTC)
        assert "{{" not in kit.instruction(one, kit.values({}))


def test_there_are_at_least_four_kits_in_the_catalogue_with_work_of_their_own() -> None:
    assert len([kit for kit in built_in_kits().values() if kit.workflows]) >= 4
