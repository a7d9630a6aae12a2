"""Elements that learn from their neighbours in the periodic table.

A network that knows an element by its number alone has to learn rubidium from the few crystals that
hold rubidium. While it is trained, an element's vector is the sum of its own, of one that it shares
with its row and of one that it shares with its group, counted from the noble gases. A checkpoint
holds the sums: the network that samples looks an element up by its number.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LAST_OF_ROWS = (2, 10, 18, 36, 54, 86, 118)
"""Atomic number of the last element of each row."""
_MOST_IN_ROW = 32


class PeriodicElements(nn.Module):
    """Vectors of elements, in the place of an embedding by number, which goes on from there.

    Args:
        number: the embedding whose vectors the elements begin with.
    """

    row_of: Tensor
    place_of: Tensor

    def __init__(self, number: nn.Embedding) -> None:
        super().__init__()
        width = number.embedding_dim
        self.number = number
        self.row = nn.Embedding(len(LAST_OF_ROWS), width)
        self.place = nn.Embedding(_MOST_IN_ROW, width)
        for shared in (self.row, self.place):
            nn.init.zeros_(shared.weight)
        # Number 0 is no element and is never looked up.
        numbers = torch.arange(number.num_embeddings).clamp(min=1, max=LAST_OF_ROWS[-1])
        last = torch.tensor(LAST_OF_ROWS)
        row = torch.bucketize(numbers, last)
        self.register_buffer("row_of", row, persistent=False)
        self.register_buffer("place_of", last[row] - numbers, persistent=False)

    @property
    def weight(self) -> Tensor:
        """(n_elements, hidden) the vectors by atomic number."""
        shared: Tensor = self.row(self.row_of) + self.place(self.place_of)
        return self.number.weight + shared

    def forward(self, numbers: Tensor) -> Tensor:
        """Map atomic numbers (...) to (..., hidden)."""
        return functional.embedding(numbers, self.weight)
