"""The potentials that energies and forces come from, by name."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from screening.errors import UserError, first_line, shown
from screening.potential import OneByOne

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase.calculators.calculator import BaseCalculator
    from pymatgen.core import Structure

    from screening.chgnet_calculator import CHGNetCalculator
    from screening.potential import Potential

DEFAULT = "chgnet"
FIELD = "relaxation.calculator"
"""What most often gives the name of a potential."""

SEVENNET_WEIGHTS = {
    "sevennet-0": "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth",
    "sevennet-l3i5": "SevenNet_l3i5/checkpoint_l3i5.pth",
}
"""Files of weights in the package, by the name that the campaign file uses."""

_CHGNET_WEIGHTS = "0.3.0"
_DIGITS = 16


class Calculator(Protocol):
    """A potential: what it is called, how to tell it from others, and how to load it."""

    @property
    def name(self) -> str:
        """The name that the campaign file uses, defaults resolved."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever energies may, with the version and the weights."""

    @property
    def corrected(self) -> bool:
        """Whether energies, with `correction` added, are those of the Materials Project's scale.

        That is, whether they contain the corrections of ``MaterialsProject2020Compatibility``.
        """

    def correction(self, structure: Structure) -> float:
        """Return what is to be added to the energy of a crystal's cell, eV."""

    def ase(self, device: str = "cpu") -> BaseCalculator:
        """Load the potential as a calculator of ASE's that knows energy, forces and stress.

        Args:
            device: ``cpu`` or ``cuda``, for those that can make use of it.
        """

    def load(self, device: str = "cpu") -> Potential:
        """Load the potential to be asked about many crystals at once, on a device as above."""


@dataclass(frozen=True)
class CHGNetPotential:
    """CHGNet (Deng et al., Nature Machine Intelligence 5, 1031, 2023), trained on MPtrj.

    It was trained on corrected energies, so nothing is to be added to them.
    """

    name: str = "chgnet"
    corrected: bool = True

    def correction(self, structure: Structure) -> float:  # noqa: ARG002 - of any crystal
        """Return zero."""
        return 0.0

    @property
    def fingerprint(self) -> str:
        """Version of the package and digest of the weights that it ships."""
        spec = importlib.util.find_spec("chgnet")
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                "the potential 'chgnet' is not installed; install the project "
                "with its dependencies, or name another potential as module:factory"
            )
        folder = Path(spec.submodule_search_locations[0]) / "pretrained" / _CHGNET_WEIGHTS
        digest = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(folder.glob("*.tar"))))
        return f"chgnet-{version('chgnet')}-{digest.hexdigest()[:_DIGITS]}"

    def ase(self, device: str = "cpu") -> CHGNetCalculator:
        """Load the weights; takes seconds, for the libraries that it imports."""
        from screening.chgnet_calculator import CHGNetCalculator  # noqa: PLC0415 - imports torch

        return CHGNetCalculator(_CHGNET_WEIGHTS, device)

    def load(self, device: str = "cpu") -> Potential:
        """Load the weights; crystals are then evaluated together."""
        return self.ase(device)


@dataclass(frozen=True)
class SevenNetPotential:
    """SevenNet (Park et al., J. Chem. Theory Comput. 20, 4857, 2024), trained on MPtrj.

    It was trained on energies without corrections, which are added here.
    """

    name: str
    """A key of `SEVENNET_WEIGHTS`."""
    corrected: bool = True

    @property
    def weights(self) -> Path:
        """The file of weights, which the package ships.

        Raises:
            UserError: if the package is not installed.
        """
        spec = importlib.util.find_spec("sevenn")
        if spec is None or not spec.submodule_search_locations:
            raise UserError(
                f"the potential {self.name!r} is not installed; "
                f"`pip install 'crystal-screening[sevennet]'` does so, or name another potential"
            )
        folder = Path(spec.submodule_search_locations[0]) / "pretrained_potentials"
        return folder / SEVENNET_WEIGHTS[self.name]

    @property
    def fingerprint(self) -> str:
        """Version of the package and digest of the weights."""
        digest = hashlib.sha256(self.weights.read_bytes())
        return f"{self.name}-{version('sevenn')}-{digest.hexdigest()[:_DIGITS]}"

    def correction(self, structure: Structure) -> float:
        """Return the correction of ``MaterialsProject2020Compatibility``."""
        from screening.corrections import mp2020_correction  # noqa: PLC0415 - takes a second

        return mp2020_correction(structure)

    def ase(self, device: str = "cpu") -> BaseCalculator:
        """Load the weights; takes seconds, for the libraries that it imports."""
        path = self.weights
        with warnings.catch_warnings():
            # Of torch's, about how SevenNet is written, and of its own, about GPUs.
            warnings.simplefilter("ignore")
            from sevenn.calculator import SevenNetCalculator  # noqa: PLC0415 - optional, slow

            calculator: BaseCalculator = SevenNetCalculator(str(path), device=device)
        return calculator

    def load(self, device: str = "cpu") -> Potential:
        """Load the weights; crystals are then evaluated together."""
        calculator = self.ase(device)
        from screening.sevennet_potential import SevenNetNetwork  # noqa: PLC0415 - optional, slow

        return SevenNetNetwork(calculator)


@dataclass(frozen=True)
class ImportedPotential:
    """Any calculator of ASE's, made by a function or class of the user's."""

    name: str
    """``module:factory``; the factory is called without arguments."""
    corrected: bool = False

    def correction(self, structure: Structure) -> float:  # noqa: ARG002 - of any crystal
        """Return zero: what its energies contain is not known."""
        return 0.0

    def factory(self, field: str = FIELD) -> Callable[[], BaseCalculator]:
        """Import the factory.

        Args:
            field: what gives its name, for the message.

        Raises:
            UserError: if there is none of that name.
        """
        module_name, _, factory_name = self.name.partition(":")
        try:
            factory: Any = getattr(importlib.import_module(module_name), factory_name)
        except Exception as error:  # noqa: BLE001 - importing a user's module can raise anything
            raise UserError(
                f"{field} is {shown(self.name)}, which cannot be imported: "
                f"{first_line(error)}; allowed: {_allowed()}"
            ) from None
        if not callable(factory):
            raise UserError(
                f"{field} is {shown(self.name)}, which is not a function or class; "
                f"allowed: {_allowed()}"
            )
        return factory  # type: ignore[no-any-return]

    @property
    def fingerprint(self) -> str:
        """Digest of the module's source file, or the module's version where it has no file."""
        module = importlib.import_module(self.name.partition(":")[0])
        file = getattr(module, "__file__", None)
        content = Path(file).read_bytes() if file else str(getattr(module, "__version__", ""))
        data = content if isinstance(content, bytes) else content.encode()
        return f"{self.name}-{hashlib.sha256(data).hexdigest()[:_DIGITS]}"

    def ase(self, device: str = "cpu") -> BaseCalculator:  # noqa: ARG002 - it chooses its own
        """Call the factory."""
        return self.factory()()

    def load(self, device: str = "cpu") -> Potential:  # noqa: ARG002 - it chooses its own
        """Call the factory; crystals are evaluated one by one."""
        return OneByOne(self.ase())


POTENTIALS: dict[str, Calculator] = {
    "chgnet": CHGNetPotential(),
    **{name: SevenNetPotential(name) for name in SEVENNET_WEIGHTS},
}


def load_calculator(name: str, field: str = FIELD) -> Calculator:
    """Return the potential of a name; its weights are loaded by `Calculator.ase`.

    Args:
        name: ``default``, a key of `POTENTIALS`, or ``module:factory``.
        field: what gives the name, for the message.

    Raises:
        UserError: if there is no such potential.
    """
    if name == "default":
        name = DEFAULT
    if name in POTENTIALS:
        return POTENTIALS[name]
    if ":" not in name:
        raise UserError(f"{field} is {shown(name)}; allowed: {_allowed()}")
    potential = ImportedPotential(name)
    potential.factory(field)
    return potential


def _allowed() -> str:
    names = ", ".join(["default", *POTENTIALS])
    return f"{names}, or module:factory for a function that returns a calculator of ASE's"
