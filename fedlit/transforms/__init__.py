"""What is done to an update on its way to the server: each transform is one file."""

from fedlit.transforms.base import Compression, Transform
from fedlit.transforms.channel import Channel, Sent
from fedlit.transforms.differential_privacy import DifferentialPrivacy
from fedlit.transforms.low_precision import LowPrecision
from fedlit.transforms.low_rank import LowRank
from fedlit.transforms.secure_aggregation import SecureAggregation
from fedlit.transforms.top_k import TopK

__all__ = [
    "Channel",
    "Compression",
    "DifferentialPrivacy",
    "LowPrecision",
    "LowRank",
    "SecureAggregation",
    "Sent",
    "TopK",
    "Transform",
]
