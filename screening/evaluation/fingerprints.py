"""Fingerprints of crystals: what is around their sites, and what they consist of.

Both are those of matminer 0.10.1 (``CrystalNNFingerprint.from_preset("ops")`` and
``ElementProperty.from_preset("magpie")``; Ward et al., Comput. Mater. Sci. 152, 60, 2018), computed
from what pymatgen and SMACT bring along. The tests compare them with matminer's own.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from pymatgen.core.local_env import CN_OPT_PARAMS, CrystalNN, LocalStructOrderParams

from screening.schema import symmetry_dataset

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Composition, Structure

    Array = NDArray[np.float64]

N_STRUCTURE = 61
"""Numbers in a structure fingerprint: 24 coordination numbers, and 37 shapes of them."""
N_COMPOSITION = 132
"""Numbers in a composition fingerprint: 6 statistics of 22 properties of elements."""

_EQUIVALENT = 1e-4  # angstrom: only what is the same site but for rounding
_HIGHEST_COORDINATION = 24
_STEINHARDT = ("q2", "q4", "q6")
# The shapes that pymatgen has a measure for, by coordination number.
_SHAPES = {
    **{number: tuple(shapes) for number, shapes in CN_OPT_PARAMS.items()},
    1: ("sgl_bd",),
    **dict.fromkeys((9, 10, 11), _STEINHARDT),
    12: ("cuboctahedral", *_STEINHARDT),
}
_PROPERTIES = (
    "Number", "MendeleevNumber", "AtomicWeight", "MeltingT", "Column", "Row", "CovalentRadius",
    "Electronegativity", "NsValence", "NpValence", "NdValence", "NfValence", "NValence",
    "NsUnfilled", "NpUnfilled", "NdUnfilled", "NfUnfilled", "NUnfilled", "GSvolume_pa",
    "GSbandgap", "GSmagmom", "SpaceGroupNumber",
)  # fmt: skip
# What Magpie's tables lack up to plutonium is filled with the mean of its other elements. SMACT's
# copy has a mean over fewer of them; these are matminer's.
_MEANS = {
    "MeltingT": 1296.471485148515,
    "Electronegativity": 1.7151020408163267,
    "SpaceGroupNumber": 182.5157894736842,
}
_LACKING = {
    "He": ("MeltingT", "Electronegativity"),
    "Ne": ("Electronegativity",),
    "Ar": ("Electronegativity",),
    "At": ("SpaceGroupNumber",),
    "Rn": ("Electronegativity", "SpaceGroupNumber"),
    "Fr": ("MeltingT", "SpaceGroupNumber"),
}


def structure_fingerprint(structure: Structure) -> Array:
    """Return the mean (61,) over the sites of their surroundings' likeness to known shapes.

    Sites that are equivalent by symmetry are looked at once: a fingerprint costs some 20 ms a site.

    Args:
        structure: an ordered crystal.

    Raises:
        Exception: whatever pymatgen's Voronoi analysis raises of a crystal without sense.
    """
    orbits, first, counts = np.unique(
        _equivalent_sites(structure), return_index=True, return_counts=True
    )
    del orbits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing radii and oxidation states, for every site
        sites = np.array([_site_fingerprint(structure, int(site)) for site in first])
    return np.asarray(counts @ sites / counts.sum())


def composition_fingerprint(composition: Composition) -> Array:
    """Return minimum, maximum, range, mean, mean deviation and mode of 22 properties: (132,)."""
    amounts = composition.element_composition.get_el_amt_dict()
    values = np.array([_properties(symbol) for symbol in amounts])
    shares = np.array(list(amounts.values())) / sum(amounts.values())
    lowest, highest, mean = values.min(axis=0), values.max(axis=0), shares @ values
    deviation = shares @ np.abs(values - mean)
    mode = values[np.isclose(shares, shares.max())].min(axis=0)
    statistics = (lowest, highest, highest - lowest, mean, deviation, mode)
    return np.stack(statistics, axis=1).ravel()


def _site_fingerprint(structure: Structure, site: int) -> list[float]:
    """Return the weight of each coordination number, and of each shape that goes with it."""
    surroundings = _neighbours().get_nn_data(structure, site)
    fingerprint: list[float] = []
    for number in range(1, _HIGHEST_COORDINATION + 1):
        weight = float(surroundings.cn_weights.get(number, 0.0))
        measures = _measures().get(number, ())
        fingerprint.append(weight)
        if weight == 0:
            fingerprint += [0.0] * len(measures)
            continue
        around = [entry["site"] for entry in surroundings.cn_nninfo[number]]
        for measure in measures:
            values = measure.get_order_parameters(
                [structure[site], *around], 0, indices_neighs=list(range(1, number + 1))
            )
            fingerprint.append(weight * (values[0] or 0.0))  # None where it has no meaning
    return fingerprint


def _equivalent_sites(structure: Structure) -> NDArray[np.int64]:
    """Return for each site the first one that symmetry makes equivalent to it."""
    dataset = symmetry_dataset(structure, _EQUIVALENT)
    if dataset is None:
        return np.arange(len(structure))
    return np.asarray(dataset.crystallographic_orbits, dtype=np.int64)


@cache
def _neighbours() -> Any:
    return CrystalNN()  # type: ignore[no-untyped-call]


@cache
def _measures() -> dict[int, tuple[Any, ...]]:
    """Return the measures of the shapes of each coordination number."""
    return {
        number: tuple(_measure(number, s) for s in shapes) for number, shapes in _SHAPES.items()
    }


def _measure(number: int, shape: str) -> Any:
    known: dict[str, Any] = CN_OPT_PARAMS.get(number, {})
    name, *settings = known.get(shape, [shape])
    return LocalStructOrderParams([name], parameters=[dict(settings[0]) if settings else None])


@cache
def _properties(symbol: str) -> Array:
    """Return Magpie's 22 properties of an element (Ward et al., npj Comput. Mater. 2, 2016)."""
    from smact.data_loader import lookup_element_magpie_data  # noqa: PLC0415 - takes a second

    table = lookup_element_magpie_data(symbol)
    if table is None:
        raise ValueError(f"Magpie's tables have no element {symbol}")
    filled = {**table, **{name: _MEANS[name] for name in _LACKING.get(symbol, ())}}
    return np.array([float(filled[name]) for name in _PROPERTIES])
