"""How updates become one: each rule is one file."""

from fedlit.aggregation.base import Aggregation
from fedlit.aggregation.mean import Mean

__all__ = ["Aggregation", "Mean"]
