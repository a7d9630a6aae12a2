"""The score network: DimeNet++ on the symmetric multigraph, with outputs per edge.

Directional messages after Gasteiger et al. (2020), arXiv:2011.14115. The pooling over atoms is
taken out (Sultanov et al. 2023, section 4.2): each edge gives one number for the position score,
along its unit vector, and one for the length score, along the gradient of its length.

Instead of scores the network gives the *noise* it believes was added, in units of its standard
deviation: ``score = -noise / sigma``. The square of its error is the denoising score-matching loss
with weights sigma^2 (equation 6).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.angles import find_angles
from model.lattice import distance_gradient, row_product
from model.multigraph import build_multigraph, merge_sites
from model.repeatable import Dense, rounded

if TYPE_CHECKING:
    from model.angles import Angles
    from model.multigraph import Batch, MergedSites, Multigraph
    from model.noise import NoiseSchedule

_N_ELEMENTS = 119
_N_GROUPS = 231
_LEVEL_FREQUENCIES = 6
_LARGEST = {
    "hidden": 4096,
    "bottleneck": 4096,
    "n_blocks": 64,
    "n_radial": 256,
    "n_angular_radial": 256,
    "n_spherical": 64,
    "n_angular_basis": 256,
    "n_neighbours": 1024,
}
_SMALLEST_DISTANCE = 0.05
"""Angstrom. The radial basis oscillates as 1/d for shorter edges, which are not physical."""


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network."""

    hidden: int = 64
    """Width of edge messages."""
    bottleneck: int = 32
    """Width of messages inside the sum over angles."""
    n_blocks: int = 3
    """Interaction blocks."""
    n_radial: int = 12
    """Bessel functions of the distance."""
    n_angular_radial: int = 6
    """Bessel functions that go with each Legendre polynomial of the angle."""
    n_spherical: int = 7
    """Legendre polynomials of the angle."""
    n_angular_basis: int = 8
    """Width of the angular basis inside a block."""
    n_neighbours: int = 20
    """Slots per site in the multigraph."""
    cutoff: float = 8.0
    """Angstrom."""
    merge_radius_smallest: float = 0.15
    """Angstrom. Half of the paper's 0.3: images twice that far apart are one atom."""
    merge_radius_largest: float = 0.5
    """Angstrom. No atom sits 1 angstrom from its own image."""
    merge_radius_sigmas: float = 4.0
    """A site on a special position stays within so many sigmas of it."""

    def __post_init__(self) -> None:
        """Refuse sizes that would fill any memory: they come from files of others, too."""
        for name, most in _LARGEST.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not 0 < value <= most:
                message = f"network: {name} must be a whole number from 1 to {most}, got {value!r}"
                raise ValueError(message)


@dataclass(frozen=True)
class Noise:
    """The network's estimate of the noise, in units of its standard deviation."""

    positions: Tensor
    """(n_sites, 3) Cartesian."""
    lengths: Tensor
    """(n_systems, 3) of the free lengths in L3, zero where the family has fewer."""


@dataclass(frozen=True)
class Scene:
    """What the network sees of structures."""

    lattice: Tensor
    """(n_systems, 3, 3) angstrom."""
    merged: MergedSites
    """The sites, those close to a special position on it."""
    displaced: Tensor
    """(n_sites, 3) from there to where they are, angstrom."""
    graph: Multigraph
    """Their neighbours."""
    angles: Angles
    """The directions of these."""


class Residual(nn.Module):
    """Two dense layers around a skip connection."""

    def __init__(self, width: int) -> None:
        """Make the layers."""
        super().__init__()
        self.first = Dense(width, width)
        self.second = Dense(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., width) to (..., width)."""
        y: Tensor = functional.silu(self.second(functional.silu(self.first(x))))
        return x + y


class Interaction(nn.Module):
    """DimeNet++ interaction: messages into a neighbour change the message that it sends on."""

    def __init__(self, config: NetworkConfig) -> None:
        """Make the layers."""
        super().__init__()
        width, inner = config.hidden, config.bottleneck
        self.condition = Dense(width, width)
        self.keep = Dense(width, width)
        self.pass_on = Dense(width, width)
        self.radial = Dense(config.n_radial, width, bias=False)
        self.angular = Dense(config.n_angular_basis, inner, bias=False)
        self.down = Dense(width, inner, bias=False)
        self.up = Dense(inner, width, bias=False)
        self.before = Residual(width)
        self.join = Dense(width, width)
        self.after = Residual(width)

    def forward(
        self, x: Tensor, node: Tensor, radial: Tensor, angular: Tensor, scene: Scene
    ) -> Tensor:
        """Update messages.

        Args:
            x: (n_sites, n_neighbours, hidden) message from each neighbour to its site.
            node: (n_sites, hidden).
            radial: (n_sites, n_neighbours, n_radial) times the edge's weight.
            angular: (n_spherical, n_angular_radial, n_angular_basis) what a polynomial of the angle
                and a function of the distance behind it make of the basis.
            scene: the graph and its angles.
        """
        kept = functional.silu(self.keep(x) + self.condition(node)[:, None])
        passed = functional.silu(self.pass_on(x)) * self.radial(radial)
        passed = functional.silu(self.down(passed))
        behind = radial[..., : angular.shape[1]]
        weights = self.angular(angular)
        mixed = scene.angles.sum(passed * (behind @ weight) for weight in weights)
        y = self.before(kept + functional.silu(self.up(mixed)))
        result: Tensor = self.after(functional.silu(self.join(y)) + x)
        return result


class ScoreNetwork(nn.Module):
    """Estimates the noise on positions and on cell lengths from one multigraph."""

    def __init__(self, config: NetworkConfig, schedule: NoiseSchedule) -> None:
        """Make the layers."""
        super().__init__()
        self.config = config
        self.schedule = schedule
        width = config.hidden
        self.element = nn.Embedding(_N_ELEMENTS, width)
        # Groups without training data keep the zero vector and behave like the average group.
        self.group = nn.Embedding(_N_GROUPS, width)
        nn.init.zeros_(self.group.weight)
        self.surroundings = nn.Sequential(
            Dense(2 * _LEVEL_FREQUENCIES + 3, width), nn.SiLU(), Dense(width, width)
        )
        self.frequencies = nn.Parameter(torch.pi * torch.arange(1.0, config.n_radial + 1))
        self.embed_distance = Dense(config.n_radial, width)
        self.embed_site = Dense(width, width)
        self.embed_neighbour = Dense(width, width)
        self.embed = Dense(width, width)
        self.angular = Dense(
            config.n_spherical * config.n_angular_radial,
            config.n_blocks * config.n_angular_basis,
            bias=False,
        )
        self.blocks = nn.ModuleList(Interaction(config) for _ in range(config.n_blocks))
        self.output = nn.Sequential(Dense(width, width), nn.SiLU(), Dense(width, width))
        self.edge_output = Dense(width, 2)
        share = Dense(width, 1)
        self.site_output = nn.Sequential(Dense(2 * width, width), nn.SiLU(), share)
        for last in (self.edge_output, share):
            nn.init.zeros_(last.weight)

    def merge(
        self, batch: Batch, frac_coords: Tensor, lattice: Tensor, level: Tensor
    ) -> MergedSites:
        """Put sites on the special positions that they cannot be told apart from."""
        config = self.config
        radius = config.merge_radius_sigmas * self.schedule.position_sigma(level)
        radius = radius.clamp(config.merge_radius_smallest, config.merge_radius_largest)
        return merge_sites(batch, frac_coords, lattice, radius[batch.system])

    def forward(self, batch: Batch, frac_coords: Tensor, l3: Tensor, level: Tensor) -> Noise:
        """Estimate the noise of structures.

        Args:
            batch: the structures.
            frac_coords: (n_sites, 3).
            l3: (n_systems, 3), tied by the crystal family.
            level: (n_systems,) noise level in [0, 1].
        """
        return self.judge(batch, self.look(batch, frac_coords, l3, level), l3, level)

    @torch.no_grad()
    def look(self, batch: Batch, frac_coords: Tensor, l3: Tensor, level: Tensor) -> Scene:
        """Find the neighbours of all sites; arguments as of ``forward``."""
        lattice = batch.lattice(l3)
        merged = self.merge(batch, frac_coords, lattice, level)
        graph = build_multigraph(
            batch, merged, lattice, self.config.n_neighbours, self.config.cutoff
        )
        displaced = row_product(
            frac_coords - merged.frac_coords - merged.wrap, lattice[batch.system]
        )
        angles = find_angles(graph, self.config.n_spherical - 1)
        return Scene(lattice, merged, displaced, graph, angles)

    def judge(self, batch: Batch, scene: Scene, l3: Tensor, level: Tensor) -> Noise:
        """Estimate the noise of what was seen; other arguments as of ``forward``."""
        graph = scene.graph
        node = self._nodes(batch, scene.merged, scene.lattice, level)
        x = self._messages(scene, node)
        along_edge, along_length = (self.edge_output(x) * graph.weights[..., None]).unbind(-1)

        # A site that was merged into a special position is drawn back to it by a share that the
        # network decides: all the way at small noise, not at all where it would not belong.
        pooled = (x * graph.weights[..., None]).mean(dim=1)
        share = 1.0 + self.site_output(torch.cat([pooled, node], dim=1))
        sigma = self.schedule.position_sigma(level)[batch.system, None]
        units = graph.vectors / graph.distances[..., None]
        positions = (along_edge[..., None] * units).sum(dim=1) + share * scene.displaced / sigma
        return Noise(positions, _length_noise(batch, graph, l3, along_length))

    def _nodes(self, batch: Batch, merged: MergedSites, lattice: Tensor, level: Tensor) -> Tensor:
        """(n_sites, hidden): element, group, noise level, and how densely the cell is filled."""
        multiplicity = merged.multiplicity.to(lattice.dtype)
        n_atoms = torch.zeros(batch.n_systems, dtype=lattice.dtype, device=lattice.device)
        n_atoms = n_atoms.index_add(0, batch.system, multiplicity)
        volume_per_atom = torch.linalg.det(lattice).abs() / n_atoms
        frequencies = torch.arange(_LEVEL_FREQUENCIES, device=level.device, dtype=level.dtype)
        phase = torch.pi * level[:, None] * 2.0**frequencies
        of_system = torch.cat(
            [
                rounded(torch.sin, phase),
                rounded(torch.cos, phase),
                rounded(torch.log, torch.stack([volume_per_atom, n_atoms], dim=1)),
            ],
            dim=1,
        )
        filled = rounded(torch.log, multiplicity)
        of_site = torch.cat([of_system[batch.system], filled[:, None]], dim=1)
        node: Tensor = (
            self.element(batch.atomic_numbers)
            + self.group(batch.space_group).index_select(0, batch.system)
            + self.surroundings(of_site)
        )
        return node

    def _messages(self, scene: Scene, node: Tensor) -> Tensor:
        """(n_sites, n_neighbours, hidden) after all interactions."""
        radial = self._radial_basis(scene.graph)
        embedded = functional.silu(self.embed_distance(radial))
        embedded = embedded + self.embed_site(node)[:, None]
        neighbour = scene.graph.neighbour
        from_neighbour = self.embed_neighbour(node).index_select(0, neighbour.flatten())
        from_neighbour = from_neighbour.view(*neighbour.shape, -1)
        x = functional.silu(self.embed(functional.silu(embedded + from_neighbour)))
        config = self.config
        sizes = (config.n_blocks, config.n_angular_basis, config.n_spherical, -1)
        angular = self.angular.weight.view(sizes).permute(0, 2, 3, 1)
        for block, of_block in zip(self.blocks, angular, strict=True):
            x = block(x, node, radial, of_block, scene)
        result: Tensor = self.output(x)
        return result

    def _radial_basis(self, graph: Multigraph) -> Tensor:
        """Bessel functions sin(n pi d / c) / d (DimeNet, equation 7) times the edge's weight."""
        scaled = graph.distances.clamp(min=_SMALLEST_DISTANCE)[..., None] / self.config.cutoff
        return rounded(torch.sin, self.frequencies * scaled) / scaled * graph.weights[..., None]


def _length_noise(batch: Batch, graph: Multigraph, l3: Tensor, along_length: Tensor) -> Tensor:
    """Mean over a structure's edges of their outputs along the unit gradient of their length.

    The paper's estimate (section 4.3) is the mean of ``delta_d G / |G|^2``; an output counts
    ``delta_d`` in units of ``sigma |G|``.
    """
    n_neighbours = graph.weights.shape[1]
    system = batch.system.repeat_interleave(n_neighbours)
    gradient = distance_gradient(
        graph.frac_vectors.flatten(0, 1),
        graph.vectors.flatten(0, 1),
        graph.distances.flatten(),
        l3[system],
        batch.directions[system],
        batch.ties[system],
    )
    gradient = functional.normalize(gradient, dim=1, eps=1e-6)
    total = torch.zeros(batch.n_systems, 3, dtype=l3.dtype, device=l3.device)
    total = total.index_add(0, system, along_length.flatten()[:, None] * gradient)
    weight = torch.zeros(batch.n_systems, dtype=l3.dtype, device=l3.device)
    weight = weight.index_add(0, system, graph.weights.flatten())
    return total / weight.clamp(min=1e-3)[:, None]
