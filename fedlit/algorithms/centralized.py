"""Centralized: all sites' pictures in one place; the upper reference, which hospitals may not build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from fedlit.algorithms.base import Algorithm
from fedlit.algorithms.fedavg import FedAvg
from fedlit.data.pictures import Pictures
from fedlit.data.site import Site


@dataclass(frozen=True)
class Centralized(Algorithm):
    """One client holds the training pictures of all sites and trains as under FedAvg."""

    sends_updates: ClassVar[bool] = False
    sends_training_alone: ClassVar[bool] = True

    def participants(self, sites: Sequence[Site]) -> list[Site]:
        splits = {
            split: Pictures.pooled([getattr(site, split) for site in sites]) for split in ("train", "val", "test")
        }
        return [Site("pooled", "member", seed_name="pooled", remarks=(), **splits)]

    local_update = FedAvg.local_update
    server_update = FedAvg.server_update
