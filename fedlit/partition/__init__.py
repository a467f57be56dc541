"""One pooled set dealt to sites by a rule: whole patients, every case once, the same for the same seed."""

from fedlit.partition.base import Patient, Rule
from fedlit.partition.chance import IID, Size
from fedlit.partition.field import Field
from fedlit.partition.skew import Dirichlet, Pathological
from fedlit.partition.writing import Partition, partition, write_partition

__all__ = [
    "IID",
    "Dirichlet",
    "Field",
    "Partition",
    "Pathological",
    "Patient",
    "Rule",
    "Size",
    "partition",
    "write_partition",
]
