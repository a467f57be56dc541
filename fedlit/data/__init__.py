"""A hospital's pictures: from a manifest on disk to batches with addressed seeds."""

from fedlit.data.pictures import Pictures
from fedlit.data.site import Site
from fedlit.data.source import Manifest

__all__ = ["Manifest", "Pictures", "Site"]
