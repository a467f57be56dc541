"""The rules by the names that `fedlit partition --by` takes."""

from __future__ import annotations

from collections.abc import Mapping

from fedlit.partition.base import Rule
from fedlit.partition.chance import IID, Size
from fedlit.partition.field import Field
from fedlit.partition.skew import Dirichlet, Pathological

RULES: Mapping[str, type[Rule]] = {
    "iid": IID,
    "size": Size,
    "dirichlet": Dirichlet,
    "pathological": Pathological,
    "field": Field,
}
