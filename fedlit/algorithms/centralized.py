"""Centralized: all sites' pictures in one place; the upper reference, which hospitals may not build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlit.algorithms.fedavg import FedAvg
from fedlit.data.pictures import Pictures
from fedlit.data.site import Site


@dataclass(frozen=True)
class Centralized(FedAvg):
    """FedAvg with one client that holds the training pictures of all sites."""

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        splits = ("train", "val", "test")
        pooled = {split: Pictures.pooled([getattr(site, split) for site in sites]) for split in splits}
        return [Site("pooled", "member", seed_name="pooled", **pooled)]
