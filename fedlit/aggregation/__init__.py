"""How updates become one: each rule is one file."""

from fedlit.aggregation.base import Aggregation, Coefficient
from fedlit.aggregation.mean import Mean

__all__ = ["Aggregation", "Coefficient", "Mean"]
