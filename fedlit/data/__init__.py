"""A hospital's pictures: from a manifest on disk to batches with addressed seeds."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedlit.data.pictures import Pictures
    from fedlit.data.site import Site
    from fedlit.data.source import Manifest

__all__ = ["Manifest", "Pictures", "Site"]
HOMES = {"Manifest": "source", "Pictures": "pictures", "Site": "site"}


def __getattr__(name: str) -> Any:
    """The three names, imported when they are first asked for: they bring torch, and a manifest's rows need none."""
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
    globals()[name] = value
    return value
