"""Elements that learn from their neighbours in the periodic table."""

from __future__ import annotations

import torch
from ase.data import chemical_symbols
from torch import nn

from model.elements import PeriodicElements
from model.network import NetworkConfig
from model.training import Trainer, TrainingConfig


def test_it_goes_on_from_an_embedding() -> None:
    number = nn.Embedding(119, 8)
    elements = PeriodicElements(number)
    numbers = torch.randint(1, 119, (40, 3))
    assert torch.equal(elements(numbers), number(numbers))
    assert torch.equal(elements.weight, number.weight)


def test_those_that_share_a_group_or_a_row_move_together() -> None:
    elements = PeriodicElements(nn.Embedding(119, 4))
    place = {symbol: int(elements.place_of[z]) for z, symbol in enumerate(chemical_symbols)}
    row = {symbol: int(elements.row_of[z]) for z, symbol in enumerate(chemical_symbols)}
    for group in ("He Ne Ar Kr Xe Rn Og", "F Cl Br I At Ts", "Li Na", "K Rb", "Cs Fr", "Cu Ag Au"):
        assert len({place[symbol] for symbol in group.split()}) == 1, group
    for period in ("H He", "Li C Ne", "Na Si Ar", "K Cu Kr", "Cs La Lu Rn"):
        assert len({row[symbol] for symbol in period.split()}) == 1, period
    assert len({(row[symbol], place[symbol]) for symbol in chemical_symbols[1:]}) == 118
    elements(torch.tensor([37])).sum().backward()  # rubidium
    with torch.no_grad():
        for parameter in elements.parameters():
            parameter.add_(parameter.grad)
    moved = (elements.weight - PeriodicElements(elements.number).weight).norm(dim=1)
    assert moved[19] > 0  # potassium, of its group
    assert moved[53] > 0  # iodine, of its row
    assert moved[29] == 0  # copper


def test_a_checkpoint_holds_the_sums() -> None:
    config = TrainingConfig(network=NetworkConfig(hidden=8, bottleneck=4))
    trainer = Trainer(config, "cpu")
    names = dict(trainer.average.named_parameters())
    assert "element.weight" in names
    assert not [name for name in names if name.startswith("element.") and name != "element.weight"]
    assert torch.equal(names["element.weight"], trainer.network.element.weight)
