"""Names that users write: element symbols, chemical systems, space groups and their presets."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import spglib
from pymatgen.core import Element

from model.symmetry import HIGHEST_SPACE_GROUP, LOWEST_SPACE_GROUP
from screening.errors import shown

HEAVIEST_ATOMIC_NUMBER = 94
"""Plutonium: no heavier element occurs in the training data, nor in what potentials know."""

MOST_ELEMENTS = 10
"""Of a chemical system. Its name is part of file names, which have an end."""

COMMON32 = (
    225, 139, 62, 194, 166, 63, 221, 123, 216, 164, 189, 129, 71, 38, 191, 148,
    160, 156, 74, 227, 187, 140, 65, 127, 193, 141, 186, 44, 36, 136, 107, 82,
)  # fmt: skip
"""The 32 most frequent space groups from 16 on in the training split of MP-20, most frequent
first: from 3,661 of its 25,053 structures in group 225 to 141 in group 82."""

SULTANOV2023 = (
    62, 194, 139, 63, 166, 123, 148, 164, 156, 129, 189, 160, 61, 33, 71, 146,
    225, 221, 216, 227, 198, 223, 205, 229, 230, 204, 220, 217, 218, 206, 212, 200,
)  # fmt: skip
"""The groups, in their order, of the published searches (Sultanov et al. 2023, section 5.4)."""

PRESETS = {"common32": COMMON32, "sultanov2023": SULTANOV2023}

_ISOTOPES = ("D", "T")  # pymatgen counts them as elements
_SPACE_GROUPS = "space_groups"
_N_HALL_NUMBERS = 530
_LONGEST_SYMBOL = 20


def check_element(symbol: Any, field: str) -> None:
    """Raise ``ValueError`` unless ``symbol`` is an element that the method covers."""
    known = isinstance(symbol, str) and len(symbol) <= 2 and Element.is_valid_symbol(symbol)  # noqa: PLR2004
    if not known or symbol in _ISOTOPES:
        raise ValueError(
            f"{field} holds {shown(symbol)}; an element is given by its symbol, such as Cu or K"
        )
    if Element(symbol).Z > HEAVIEST_ATOMIC_NUMBER:
        raise ValueError(
            f"{field} holds {shown(symbol)}; elements beyond Pu "
            f"(Z = {HEAVIEST_ATOMIC_NUMBER}) are outside the training data"
        )


def chemical_system_name(system: Any, field: str) -> str:
    """Return the name of a chemical system with its elements in alphabetical order.

    Raises:
        ValueError: if it is not a series of different elements joined by hyphens.
    """
    if not isinstance(system, str) or not system:
        raise ValueError(f"{field} holds {shown(system)}; a chemical system is written as Cu-K-Si")
    elements = system.split("-")
    if len(elements) > MOST_ELEMENTS:
        raise ValueError(
            f"{field} holds {shown(system)}; a system has at most {MOST_ELEMENTS} elements"
        )
    for element in elements:
        check_element(element, f"{field}: {shown(system)}")
    if len(set(elements)) < len(elements):
        raise ValueError(f"{field} holds {shown(system)}; each element may be given once")
    return "-".join(sorted(elements))


def space_group_numbers(groups: Any) -> Any:
    """Return the numbers of a preset or of a list of numbers and symbols.

    Raises:
        ValueError: for anything that does not name groups of 16 to 230, once each.
    """
    if isinstance(groups, str):
        if groups not in PRESETS:
            raise ValueError(
                f"{_SPACE_GROUPS} is {shown(groups)}; the presets are {', '.join(PRESETS)}, and a "
                f"single group is written as a list such as [62] or [Pnma]"
            )
        return PRESETS[groups]
    if not isinstance(groups, (list, tuple)) or not groups:
        raise ValueError(
            f"{_SPACE_GROUPS} is {shown(groups)}; allowed: a preset ({', '.join(PRESETS)}) or a "
            f"list of numbers {LOWEST_SPACE_GROUP} to {HIGHEST_SPACE_GROUP} or symbols"
        )
    numbers: dict[int, Any] = {}
    for group in groups:
        number = space_group_number(group, _SPACE_GROUPS)
        if number in numbers:
            raise ValueError(
                f"{_SPACE_GROUPS} holds group {number} twice, as {shown(numbers[number])} and as "
                f"{shown(group)}; each may be given once"
            )
        numbers[number] = group
    return tuple(numbers)


def space_group_number(group: Any, field: str) -> int:
    """Return the number of a space group that is given by its number or its symbol.

    Raises:
        ValueError: if there is no such group, or if it is monoclinic or triclinic.
    """
    number = group if isinstance(group, int) and not isinstance(group, bool) else None
    if isinstance(group, str) and len(group) <= _LONGEST_SYMBOL:
        text = "".join(group.split()).replace("_", "")
        digits = text.isascii() and text.isdigit()
        number = int(text) if digits else _numbers_by_symbol().get(text)
    if number is None or not 1 <= number <= HIGHEST_SPACE_GROUP:
        raise ValueError(
            f"{field} holds {shown(group)}; a space group is a number from {LOWEST_SPACE_GROUP} "
            f"to {HIGHEST_SPACE_GROUP} or a symbol such as Pnma or Fm-3m"
        )
    if number < LOWEST_SPACE_GROUP:
        raise ValueError(
            f"{field} holds {shown(group)}; monoclinic and triclinic groups, 1 to "
            f"{LOWEST_SPACE_GROUP - 1}, are outside the method, which covers "
            f"{LOWEST_SPACE_GROUP} to {HIGHEST_SPACE_GROUP}"
        )
    return number


def space_group_symbol(number: int) -> str:
    """Return the short Hermann-Mauguin symbol of a space group."""
    return _symbols_by_number()[number]


@lru_cache(maxsize=1)
def _symbols() -> list[tuple[str, int]]:
    """Return the short symbols of all settings with their numbers, standard settings first."""
    groups = [spglib.get_spacegroup_type(hall) for hall in range(1, _N_HALL_NUMBERS + 1)]
    return [(str(group.international_short), int(group.number)) for group in groups]


@lru_cache(maxsize=1)
def _symbols_by_number() -> dict[int, str]:
    # The first of a group's symbols is that of its standard setting.
    return {number: symbol for symbol, number in reversed(_symbols())}


@lru_cache(maxsize=1)
def _numbers_by_symbol() -> dict[str, int]:
    return {symbol.replace("_", ""): number for symbol, number in _symbols()}
