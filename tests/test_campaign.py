"""The campaign file: what is accepted, what is refused and in which words."""

from __future__ import annotations

import copy
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import spglib
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from screening.campaign import Campaign
from screening.chemistry import COMMON32, PRESETS, SULTANOV2023, space_group_number
from screening.errors import UserError, shown
from screening.yaml_file import parse_settings, write_settings

EXAMPLE = """
name: cu-k-si
chemical_systems: [Cu-K-Si]
space_groups: common32
sites: {per_element: [1, 2], total_max: 4}
samples_per_cell: 60
seed: 0
generator: {checkpoint: default, sampler: default}
filters: {min_distance: 0.5, max_atoms: 60}
relaxation: {calculator: default, fmax: 0.05, max_steps: 200}
references: auto
output: results/cu-k-si
"""
SHORTEST: dict[str, Any] = {
    "name": "cu-k-si",
    "chemical_systems": ["Cu-K-Si"],
    "space_groups": "common32",
    "sites": {"per_element": [1, 2], "total_max": 4},
    "samples_per_cell": 60,
}

ELEVEN = ["H", "Li", "B", "C", "N", "O", "F", "Na", "Mg", "Al", "Si"]


def changed(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(SHORTEST), **changes}


def refusal(settings: dict[str, Any]) -> str:
    with pytest.raises(UserError, match=r"c\.yaml: ") as caught:
        Campaign.from_mapping(settings, "c.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message.removeprefix("c.yaml: ")


def test_documented_file_is_what_the_defaults_say() -> None:
    assert Campaign.from_text(EXAMPLE, "example") == Campaign.from_mapping(SHORTEST)


def test_shipped_example_is_a_campaign() -> None:
    example = Path(__file__).parent.parent / "examples" / "cu-k-si-quick.yaml"
    assert Campaign.from_yaml(example).chemical_systems == ("Cu-K-Si",)


def test_resolved_file_names_every_setting_and_reads_back() -> None:
    campaign = Campaign.from_mapping(SHORTEST)
    resolved = campaign.resolved()
    assert resolved["space_groups"] == list(COMMON32)
    assert resolved["relaxation"] == {
        "calculator": "default",
        "fmax": 0.05,
        "max_steps": 200,
        "give_up_above": None,
        "device": "cpu",
    }
    assert resolved["generator"]["unit_size"] == 32
    assert resolved["output"] == "results/cu-k-si"
    assert Campaign.from_text(campaign.to_yaml(), "again") == campaign


def test_elements_are_put_in_order() -> None:
    assert Campaign.from_mapping(changed(chemical_systems=["Si-Cu-K"])).chemical_systems == (
        "Cu-K-Si",
    )


def test_groups_are_numbers_or_symbols() -> None:
    campaign = Campaign.from_mapping(
        changed(space_groups=["Pnma", "Fm-3m", "P6_3/mmc", "I4/mmm", "229", 221])
    )
    assert campaign.space_groups == (62, 225, 194, 139, 229, 221)


def test_symbol_of_every_group_is_understood() -> None:
    for hall_number in range(530, 0, -1):
        group = spglib.get_spacegroup_type(hall_number)
        if group.number >= 16:
            symbol = group.international_short
            assert space_group_number(symbol, "space_groups") == group.number
            assert space_group_number(symbol.replace("_", ""), "space_groups") == group.number


def test_presets_are_32_different_groups_of_the_method() -> None:
    for preset in PRESETS.values():
        assert len(set(preset)) == 32
        assert all(16 <= number <= 230 for number in preset)
    # The published order, as the design gives it.
    assert SULTANOV2023[:8] == (62, 194, 139, 63, 166, 123, 148, 164)


def test_common32_are_the_most_frequent_groups_of_the_training_data() -> None:
    path = Path(__file__).parents[2] / "shared" / "data" / "mp20_train.parquet"
    if not path.exists():
        pytest.skip("the training data are not here")
    import pyarrow.parquet as pq  # noqa: PLC0415 - for this test alone

    numbers = pq.read_table(path, columns=["spacegroup_number"])["spacegroup_number"].to_pylist()
    counts = Counter(number for number in numbers if number >= 16)
    assert sorted(COMMON32) == sorted(number for number, _ in counts.most_common(32))
    frequencies = [counts[number] for number in COMMON32]
    assert frequencies == sorted(frequencies, reverse=True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (changed(name="a/b"), ["name is 'a/b'", "letters"]),
        (changed(name="../x"), ["name is '../x'", "letters"]),
        (changed(name=5), ["name is 5", "letters"]),
        (changed(name="x" * 10**6), ["name is 'xxx", "…", "letters"]),
        (changed(chemical_systems=[]), ["chemical_systems is []", "Cu-K-Si"]),
        (changed(chemical_systems=None), ["chemical_systems is None", "Cu-K-Si"]),
        (changed(chemical_systems="Cu-K"), ["chemical_systems is 'Cu-K'", "a list"]),
        (changed(chemical_systems=["Xx-K"]), ["chemical_systems", "'Xx-K'", "'Xx'", "symbol"]),
        (changed(chemical_systems=["cu-K"]), ["chemical_systems", "'cu'", "symbol"]),
        (changed(chemical_systems=["D-K"]), ["chemical_systems", "'D'", "symbol"]),
        (changed(chemical_systems=["Cm-K"]), ["chemical_systems", "'Cm'", "beyond Pu"]),
        (changed(chemical_systems=["Cu-Cu"]), ["chemical_systems", "'Cu-Cu'", "once"]),
        (changed(chemical_systems=["Cu-K", "K-Cu"]), ["chemical_systems", "twice"]),
        (changed(chemical_systems=["-".join(ELEVEN)]), ["at most 10 elements"]),
        (
            changed(chemical_systems={"elements": ELEVEN, "arity": 11}),
            ["chemical_systems.arity is 11", "from 1 to 10"],
        ),
        (changed(chemical_systems=[True]), ["chemical_systems holds True", "Cu-K-Si"]),
        (
            changed(chemical_systems={"elements": ["Cu", "K"], "arity": 3}),
            ["chemical_systems.arity is 3", "1 to 2"],
        ),
        (
            changed(chemical_systems={"elements": ["Cu", "Q"], "arity": 1}),
            ["chemical_systems.elements holds 'Q'", "symbol"],
        ),
        (
            changed(chemical_systems={"elements": ["Cu", "Cu"], "arity": 1}),
            ["chemical_systems.elements holds 'Cu' twice"],
        ),
        (
            changed(chemical_systems={"elements": ["Cu"], "arity": 0}),
            ["chemical_systems.arity is 0", "from 1"],
        ),
        (
            changed(chemical_systems={"elements": ["Cu"], "arity": 1, "size": 2}),
            ["no key 'size' in chemical_systems", "elements, arity"],
        ),
        (changed(space_groups=[15]), ["space_groups holds 15", "1 to 15, are outside the method"]),
        (changed(space_groups=["P2_1/c"]), ["'P2_1/c'", "1 to 15, are outside the method"]),
        (changed(space_groups=[231]), ["space_groups holds 231", "16 to 230"]),
        (changed(space_groups=[-62]), ["space_groups holds -62", "16 to 230"]),
        (changed(space_groups=[62.0]), ["space_groups holds 62.0", "16 to 230"]),
        (changed(space_groups=[True]), ["space_groups holds True", "16 to 230"]),
        (changed(space_groups=["Pnmx"]), ["space_groups holds 'Pnmx'", "16 to 230"]),
        (changed(space_groups=["x" * 10**7]), ["space_groups holds 'xxx", "16 to 230"]),
        (changed(space_groups=[10**4000]), ["bits", "16 to 230"]),
        (changed(space_groups=[62, "Pnma"]), ["group 62 twice", "'Pnma'"]),
        (changed(space_groups=[]), ["space_groups is []", "common32"]),
        (changed(space_groups=62), ["space_groups is 62", "a list"]),
        (changed(space_groups="common23"), ["space_groups is 'common23'", "common32"]),
        (changed(sites={}), ["sites.per_element is missing"]),
        (changed(sites={"per_element": [0], "total_max": 2}), ["sites.per_element holds 0"]),
        (changed(sites={"per_element": [1, 1], "total_max": 3}), ["holds 1 twice"]),
        (changed(sites={"per_element": 1, "total_max": 3}), ["sites.per_element is 1", "list"]),
        (changed(sites={"per_element": [1.5], "total_max": 3}), ["sites.per_element holds 1.5"]),
        (changed(sites={"per_element": [1], "total_max": 2}), ["sites.total_max is 2", "least 3"]),
        (changed(samples_per_cell=0), ["samples_per_cell is 0", "from 1"]),
        (changed(samples_per_cell="60"), ["samples_per_cell is '60'", "from 1"]),
        (changed(samples_per_cell=True), ["samples_per_cell is True", "from 1"]),
        (changed(samples_per_cell=10**99), ["samples_per_cell is an integer of", "1000000"]),
        (changed(seed=-1), ["seed is -1", "from 0"]),
        (changed(seed=2**63), ["seed is", "2^63 - 1"]),
        (changed(filters={"min_distance": float("nan")}), ["filters.min_distance is nan", "0 to"]),
        (changed(filters={"min_distance": float("inf")}), ["filters.min_distance is inf", "0 to"]),
        (changed(filters={"max_atom": 3}), ["no key 'max_atom' in filters", "max_atoms"]),
        (changed(relaxation={"fmax": 0}), ["relaxation.fmax is 0", "above 0"]),
        (changed(relaxation={"max_steps": 0}), ["relaxation.max_steps is 0", "from 1"]),
        (changed(relaxation={"device": "cuda"}), ["relaxation.device is 'cuda'", "`gpu`"]),
        (changed(generator=[]), ["generator is []", "checkpoint"]),
        (changed(generator={"unit_size": 0}), ["generator.unit_size is 0", "from 1"]),
        (
            changed(generator={"method": "magic"}),
            ["generator.method is 'magic'", "model, or random"],
        ),
        (
            changed(generator={"method": "random", "checkpoint": "mine.safetensors"}),
            ["generator.checkpoint is 'mine.safetensors'", "with the method random"],
        ),
        (changed(generator={"method": "random", "sampler": "langevin"}), ["generator.sampler is"]),
        (changed(references="known.xlsx"), ["references is 'known.xlsx'", ".parquet"]),
        (changed(output="http://x/y"), ["output is 'http://x/y'", "s3://"]),
        (changed(output="a\0b"), ["output is 'a\\x00b'", "a path"]),
        (changed(output=""), ["output is ''", "a path"]),
        (changed(sample_per_cell=3), ["no key 'sample_per_cell'", "samples_per_cell"]),
    ],
)
def test_mistake_is_one_sentence_with_field_value_and_what_is_allowed(
    settings: dict[str, Any], words: list[str]
) -> None:
    message = refusal(settings)
    for word in words:
        assert word in message


@pytest.mark.parametrize("key", sorted(SHORTEST))
def test_missing_key_is_named(key: str) -> None:
    settings = {name: value for name, value in SHORTEST.items() if name != key}
    assert refusal(settings).startswith(f"{key} is missing; allowed: ")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold keys and values"),
        ("- 1\n- 2", "must hold keys and values"),
        ("name: [", "line 1"),
        ("name: a: b", "line 1"),
        ("a: 1\na: 2", "'a' is given twice"),
        ("a: !!python/object/apply:os.system [ls]", "tags are not used"),
        ("a: !!binary aGVsbG8=", "tags are not used"),
        ("a: &x [1]\nb: *x", "references"),
        ("1: 2", "every key is a word"),
        ("a: 1\n---\nb: 2", "another document"),
        ("[" * 5000, "nested too deeply"),
        ("a: " + "9" * 5000, "5000 digits"),
        ("a: \x07", "special characters"),
    ],
)
def test_text_that_is_no_settings_file_is_refused(text: str, words: str) -> None:
    with pytest.raises(UserError, match=f"c.yaml .*{words}"):
        parse_settings(text, "c.yaml")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no file"),
        (b"\x89PNG\r\n\x1a\n\xff\xfe\x00", "not text"),
        (b"name: x\n" + b"#" * 2_000_000, "more than 1,000,000 bytes"),
    ],
)
def test_file_that_is_no_campaign_is_refused(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "c.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=words):
        Campaign.from_yaml(path)


def test_directory_is_no_campaign(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a directory"):
        Campaign.from_yaml(tmp_path)


def test_values_are_read_as_people_mean_them() -> None:
    # In YAML 1.1 these are False, 50, the string '1e-3', the number 5400 and a date.
    text = "a: [No, 062, 1e-3, 1:30, 2024-01-01, true, ~, .inf, '7']"
    expected = ["No", 62, 0.001, "1:30", "2024-01-01", True, None, float("inf"), "7"]
    assert parse_settings(text, "x") == {"a": expected}


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["C"]), max_size=20),
    st.sampled_from(["No", "yes", "062", "1e-3", "~", "null", "1:30", ".nan", "", "=", "<<"]),
)


@examples(deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), plain | st.lists(plain)))
def test_settings_are_written_so_that_they_read_back(settings: dict[str, Any]) -> None:
    if settings:
        assert parse_settings(write_settings(settings), "x") == settings


@examples(deadline=None)
@given(st.recursive(plain | st.just(float("nan")), st.lists, max_leaves=5))
def test_no_value_breaks_validation(value: Any) -> None:
    for field in Campaign.model_fields:
        try:
            Campaign.from_mapping(changed(**{field: value}), "c.yaml")
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017 - most values are refused, some are not


def test_fingerprint_changes_with_everything_but_the_output() -> None:
    parts = {"model": "a", "calculator": "b", "references": "c"}
    base = Campaign.from_mapping(SHORTEST).fingerprint(parts)
    assert len(base) == 16
    assert Campaign.from_mapping(changed(output="elsewhere")).fingerprint(parts) == base
    assert Campaign.from_mapping(changed(space_groups=list(COMMON32))).fingerprint(parts) == base
    others = [
        Campaign.from_mapping(changed(seed=1)).fingerprint(parts),
        Campaign.from_mapping(changed(filters={"min_distance": 0.6})).fingerprint(parts),
        Campaign.from_mapping(SHORTEST).fingerprint({**parts, "model": "z"}),
    ]
    assert len({base, *others}) == 4


def test_fingerprint_does_not_know_limits_that_are_not_set() -> None:
    """So that a campaign from before these keys existed goes on."""
    parts = {"model": "a", "calculator": "b", "references": "c"}
    assert Campaign.from_mapping(SHORTEST).fingerprint(parts) == "93218673e5f834d7"
    limits = {"min_distance_ratio": 0.5, "max_density": 20.0, "smact_valid": True}
    for name, value in limits.items():
        with_limit = Campaign.from_mapping(changed(filters={name: value}))
        assert with_limit.fingerprint(parts) != "93218673e5f834d7"
    giving_up = Campaign.from_mapping(changed(relaxation={"give_up_above": 0.0}))
    assert giving_up.fingerprint(parts) != "93218673e5f834d7"
    on_gpus = Campaign.from_mapping(changed(relaxation={"device": "gpu"}))
    assert on_gpus.fingerprint(parts) != "93218673e5f834d7"


def test_the_generator_s_method_is_recorded_and_counts() -> None:
    model = Campaign.from_mapping(SHORTEST)
    random = Campaign.from_mapping(changed(generator={"method": "random"}))
    assert model.resolved()["generator"]["method"] == "model"
    assert random.resolved()["generator"]["method"] == "random"
    assert Campaign.from_text(random.to_yaml(), "again") == random
    assert random.fingerprint({}) != model.fingerprint({})
    # What was begun before there was a choice still is the same campaign.
    settings = model.resolved()
    del settings["output"], settings["rescoring"], settings["generator"]["method"]
    settings["filters"] = {name: value for name, value in settings["filters"].items() if value}
    del settings["relaxation"]["give_up_above"], settings["relaxation"]["device"]
    text = json.dumps({"campaign": settings, "parts": {}}, sort_keys=True)
    assert model.fingerprint({}) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_campaign_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Campaign.from_mapping(SHORTEST).seed = 3


def test_values_in_messages_stay_short() -> None:
    assert len(shown("x" * 10**7)) < 70
    assert len(shown(list(range(10**5)))) < 70
    assert shown(10**5000) == "an integer of 16610 bits"
