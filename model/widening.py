"""A trained network with more channels, which answers as it did before."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from model.checkpoint import CheckpointError
from model.network import ScoreNetwork


def widened(
    network: ScoreNetwork, *, hidden: int | None = None, bottleneck: int | None = None
) -> ScoreNetwork:
    """Return a network that estimates the same noise with more channels.

    What a new channel makes of the old ones is drawn at random, what the old ones make of it is
    zero (after Chen, Goodfellow and Shlens 2016, arXiv:1511.05641, with zeros in place of copies,
    so that no two channels begin alike). The random numbers are torch's: seed them before.

    Args:
        network: the trained network, which stays as it is.
        hidden: width of edge messages; without it, the network's.
        bottleneck: width of messages inside the sum over angles; without it, the network's.

    Raises:
        CheckpointError: if that is narrower than the network.
    """
    config = network.config
    for name, width in (("hidden", hidden), ("bottleneck", bottleneck)):
        least: int = getattr(config, name)
        if width is not None and width < least:
            message = (
                f"network.{name} must be at least {least}, that of the checkpoint, got {width}"
            )
            raise CheckpointError(message)
    config = replace(
        config, hidden=hidden or config.hidden, bottleneck=bottleneck or config.bottleneck
    )
    wide = ScoreNetwork(config, network.schedule)
    with torch.no_grad():
        wide.frequencies.copy_(network.frequencies)
        for new, old in zip(wide.modules(), network.modules(), strict=True):
            if isinstance(new, nn.Embedding) and isinstance(old, nn.Embedding):
                new.weight[:, : old.embedding_dim] = old.weight
            if isinstance(new, nn.Linear) and isinstance(old, nn.Linear):
                # A site's own output reads its messages and its node, side by side.
                parts = 2 if new is wide.site_output[0] else 1
                weight = old.weight.view(old.out_features, parts, -1)
                read = new.weight.view(new.out_features, parts, -1)[: old.out_features]
                read.zero_()
                read[:, :, : weight.shape[2]] = weight
                if old.bias is not None:
                    new.bias[: old.out_features] = old.bias
    return wide
