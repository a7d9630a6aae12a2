"""Numbers that do not depend on what else is in the batch, to the last bit.

A sample has to be the same in whatever company it is drawn: a campaign goes on after an interruption
with other batches than it would have had, and the dynamics of sampling make a last bit large. Sums
and products are the same for each structure; three things of torch's are not, on a CPU.

- A function such as the sine is computed for many numbers at once, and for the few left over at the
  end by another routine whose last bit may differ. In double precision and rounded, both agree.
- A matrix product with few rows takes another way through the library than one with many.
- A product with a single column is summed up in an order that depends on the number of rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable

_FEWEST_ROWS = 16
"""Matrix products with fewer rows are filled up. Those with six or more were found to agree."""


def rounded(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return an elementwise function of single-precision numbers, computed in double precision."""
    if x.device.type != "cpu":
        return function(x)
    return function(x.double()).to(x.dtype)


class Dense(nn.Linear):
    """A linear layer whose outputs depend on their own row of the input alone."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in_features) to (..., out_features)."""
        if self.out_features == 1:
            return (x * self.weight[0]).sum(dim=-1, keepdim=True) + self.bias
        n_rows = x.shape[:-1].numel()
        if x.device.type != "cpu" or n_rows >= _FEWEST_ROWS:
            return super().forward(x)
        rows = x.reshape(n_rows, x.shape[-1])
        filled = functional.pad(rows, (0, 0, 0, _FEWEST_ROWS - n_rows))
        return super().forward(filled)[:n_rows].view(*x.shape[:-1], self.out_features)
