"""CHGNet for several crystals at once, and as a calculator of ASE's, with one backward pass.

The package's own calculator differentiates twice, once for forces and once for the stress, and
keeps the graphs of both for training. For a relaxation one pass with respect to fractional
coordinates and a strain gives the same numbers in less than half the time. Crystals share no
edges, so that one pass serves many of them.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from ase.calculators.calculator import Calculator, all_changes
from chgnet.model.model import CHGNet
from pymatgen.io.ase import AseAtomsAdaptor

from screening.potential import ATOMS_AT_ONCE, Evaluation, evaluate_in_passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms
    from numpy.typing import NDArray
    from pymatgen.core import Structure


class CHGNetCalculator(Calculator):
    """Energy, forces and stress of CHGNet.

    Args:
        weights: name of a set of weights that the package ships.
        device: ``cpu`` or ``cuda``.
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
        (evaluation,) = self.evaluate([crystal])
        if isinstance(evaluation, Exception):
            raise evaluation
        self.results = {
            "energy": evaluation.energy,
            "forces": evaluation.forces,
            "stress": evaluation.stress,
        }

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Return what the network says of each crystal, or why it says nothing."""
        most_atoms = ATOMS_AT_ONCE[self.device]
        return evaluate_in_passes(crystals, self._graph, self._evaluated, most_atoms)

    def _graph(self, crystal: Atoms) -> Any:
        graph: Any = self.model.graph_converter(AseAtomsAdaptor.get_structure(crystal))
        return graph.to(self.device)

    def _evaluated(self, graphs: list[Any]) -> list[Evaluation]:
        lattices = [graph.lattice.detach() for graph in graphs]
        one = torch.eye(3, device=self.device)
        strains = [torch.zeros_like(one).requires_grad_() for _ in graphs]
        for graph, lattice, strain in zip(graphs, lattices, strains, strict=True):
            graph.lattice = lattice @ (one + strain)
        coords = [graph.atom_frac_coord for graph in graphs]
        with warnings.catch_warnings():
            # CHGNet with torch 2.9 and later; there is nothing that a user could do about it.
            warnings.filterwarnings("ignore", message="Converting a tensor with requires_grad")
            energies = self.model(graphs, task="e")["e"]
        if self.model.is_intensive:
            n_atoms = [len(graph.atomic_number) for graph in graphs]
            energies = energies * torch.tensor(n_atoms, device=self.device)
        gradients = torch.autograd.grad(energies.sum(), [*coords, *strains])
        return [
            _evaluation(float(energy), lattice, by_coords, by_strain)
            for energy, lattice, by_coords, by_strain in zip(
                energies.tolist(),
                lattices,
                gradients[: len(graphs)],
                gradients[len(graphs) :],
                strict=True,
            )
        ]

    def embedding(self, crystal: Structure) -> NDArray[np.float64]:
        """Return what the network makes of a crystal before its energy: (64,), a mean over atoms."""
        graph: Any = self.model.graph_converter(crystal)
        with torch.no_grad():
            answer = self.model([graph.to(self.device)], task="e", return_crystal_feas=True)
        return np.asarray(answer["crystal_fea"][0].double().cpu().numpy())


def _evaluation(energy: float, lattice: Any, by_coords: Any, by_strain: Any) -> Evaluation:
    """Turn derivatives of the energy into forces and a stress."""
    # x = f lattice, so that dE/df = dE/dx lattice^T.
    by_positions = torch.linalg.solve(lattice, by_coords.T).T
    volume = abs(np.linalg.det(lattice.double().cpu().numpy()))
    return Evaluation(
        energy=energy,
        forces=-by_positions.double().cpu().numpy(),
        stress=by_strain.double().cpu().numpy() / volume,
    )
