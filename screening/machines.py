"""The machines of a Ray cluster: what they have together, and how more of them are asked for."""

from __future__ import annotations

import importlib
from typing import Any

_ANSWER_S = 0.05
"""How long it may take to hear whether a machine has come, s."""


class Machines:
    """The machines that are alive.

    An autoscaler starts machines for work that waits for room. The actors of a campaign never wait:
    there are as many as have room. So a machine is asked for by a placement group of its size, which
    waits until one comes and is then removed, and which ends with this process, however it ends. A
    call of `ray.autoscaler.sdk.request_resources` would outlive a driver that is killed, and keep
    paid machines for nobody. Where there is no autoscaler, the groups wait and cost nothing.

    Args:
        ray: The module, connected to the cluster.
    """

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._asked: list[Any] = []

    @property
    def cores(self) -> dict[str, float]:
        """Numbers of cores of the machines that have some, by Ray's name of the machine."""
        return {name: size["CPU"] for name, size in self._sizes().items()}

    @property
    def cpus(self) -> int:
        """Number of cores, at least one."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    @property
    def gpus(self) -> int:
        """Number of GPUs."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    def _sizes(self) -> dict[str, dict[str, float]]:
        """Return the GPUs and cores of the machines that have cores, by name."""
        alive = {node["NodeID"]: node["Resources"] for node in self._ray.nodes() if node["Alive"]}
        return {
            name: {kind: has.get(kind, 0.0) for kind in ("GPU", "CPU")}
            for name, has in alive.items()
            if has.get("CPU")
        }

    def ask(self, *, more: bool) -> None:
        """Say whether more machines would be of use: as many again as there are, each the largest.

        Where no machine has a core yet, nothing is asked for: there actors do wait.
        """
        for group in [group for group in self._asked if not more or group.wait(_ANSWER_S)]:
            _placement_groups().remove_placement_group(group)
            self._asked.remove(group)
        if not more:
            return
        sizes = list(self._sizes().values())
        for _ in range(len(sizes) - len(self._asked)):
            largest = max(sizes, key=lambda size: (size["GPU"], size["CPU"]))
            self._asked.append(_placement_groups().placement_group([largest]))


def _placement_groups() -> Any:
    return importlib.import_module("ray.util.placement_group")
