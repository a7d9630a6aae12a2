"""SevenNet for several crystals at once.

Its own calculator is asked about one crystal after the other. Crystals share no edges, so that one
pass serves many of them: on one core 40 ms for each of eight small crystals instead of 59.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import chemical_symbols
from sevenn import _keys as key
from sevenn.atom_graph_data import AtomGraphData
from sevenn.train.dataload import unlabeled_atoms_to_graph
from torch_geometric.data import Batch

from screening.potential import ATOMS_AT_ONCE, Evaluation, evaluate_in_passes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ase import Atoms

_VOIGT = ((0, 3, 5), (3, 1, 4), (5, 4, 2))
"""Where the components of a stress stand in the network's own order: xx, yy, zz, xy, yz, zx."""


class SevenNetNetwork:
    """A SevenNet with its weights loaded.

    Args:
        calculator: the package's own, whose network is used.
    """

    def __init__(self, calculator: Any) -> None:
        self._model = calculator.model
        self._cutoff = calculator.cutoff
        self._device = calculator.device
        self._known = {chemical_symbols[number] for number in calculator.type_map}
        self._model.set_is_batch_data(True)

    def evaluate(self, crystals: Sequence[Atoms]) -> list[Evaluation | Exception]:
        """Return what the network says of each crystal, or why it says nothing."""
        most_atoms = ATOMS_AT_ONCE[self._device.type]
        return evaluate_in_passes(crystals, self._graph, self._evaluated, most_atoms)

    def _graph(self, crystal: Any) -> Any:
        unknown = set(crystal.get_chemical_symbols()) - self._known
        if unknown:
            raise ValueError(f"SevenNet does not know {', '.join(sorted(unknown))}")
        graph = unlabeled_atoms_to_graph(crystal, self._cutoff, with_shift=False)
        return AtomGraphData.from_numpy_dict(graph)

    def _evaluated(self, graphs: list[Any]) -> list[Evaluation]:
        output = self._model(Batch.from_data_list(graphs).to(self._device))
        energies, forces, stresses = (
            output[name].detach().double().cpu().numpy()
            for name in (key.PRED_TOTAL_ENERGY, key.PRED_FORCE, key.PRED_STRESS)
        )
        ends = np.cumsum([int(graph[key.NUM_ATOMS]) for graph in graphs])
        return [
            # The network's stress is what the crystal exerts.
            Evaluation(float(energy), of_atoms, -stress[np.array(_VOIGT)])
            for energy, of_atoms, stress in zip(
                energies, np.split(forces, ends[:-1]), stresses, strict=True
            )
        ]
