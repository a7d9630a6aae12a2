"""CHGNet as a calculator of ASE's, with one backward pass per crystal.

The package's own calculator differentiates twice, once for forces and once for the stress, and
keeps the graphs of both for training. For a relaxation one pass with respect to fractional
coordinates and a strain gives the same numbers in less than half the time.
"""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from chgnet.model.model import CHGNet
from pymatgen.io.ase import AseAtomsAdaptor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pymatgen.core import Structure


class CHGNetCalculator(Calculator):
    """Energy, forces and stress of CHGNet.

    Args:
        weights: name of a set of weights that the package ships.
        device: of torch's; small crystals one at a time keep no GPU busy.
    """

    implemented_properties = ["energy", "forces", "stress"]  # noqa: RUF012 - as ASE declares it

    def __init__(self, weights: str, device: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # It announces itself on stdout, which belongs to results.
        with contextlib.redirect_stdout(io.StringIO()):
            self.model = CHGNet.load(model_name=weights, use_device=device, verbose=False)
        self.model.eval()
        # Only the crystal is differentiated.
        self.model.requires_grad_(requires_grad=False)
        # Of an atom without neighbours it knows nothing: an error is better than a number.
        self.model.graph_converter.set_isolated_atom_response("error")
        self.device = device

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] | None = None,
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill ``results``: energy (eV), forces (eV per angstrom), stress (eV per cubic angstrom)."""
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        crystal: Any = self.atoms
        graph: Any = self.model.graph_converter(AseAtomsAdaptor.get_structure(crystal))
        graph = graph.to(self.device)
        strain = torch.zeros(3, 3, dtype=graph.lattice.dtype, device=self.device)
        strain.requires_grad_()
        lattice = graph.lattice.detach()
        graph.lattice = lattice @ (torch.eye(3, device=self.device) + strain)
        energy = self.model([graph], task="e")["e"].sum()
        if self.model.is_intensive:
            energy = energy * len(graph.atomic_number)
        by_coords, by_strain = torch.autograd.grad(energy, [graph.atom_frac_coord, strain])
        # x = f lattice, so that dE/df = dE/dx lattice^T.
        by_positions = torch.linalg.solve(lattice, by_coords.T).T
        volume = abs(np.linalg.det(lattice.double().cpu().numpy()))
        self.results = {
            "energy": float(energy.detach()),
            "forces": -by_positions.double().cpu().numpy(),
            "stress": by_strain.double().cpu().numpy() / volume,
        }

    def embedding(self, crystal: Structure) -> NDArray[np.float64]:
        """Return what the network makes of a crystal before its energy: (64,), a mean over atoms."""
        graph: Any = self.model.graph_converter(crystal)
        with torch.no_grad():
            answer = self.model([graph.to(self.device)], task="e", return_crystal_feas=True)
        return np.asarray(answer["crystal_fea"][0].double().cpu().numpy())
