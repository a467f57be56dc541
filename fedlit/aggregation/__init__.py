"""How updates become one: each rule is one file."""

from fedlit.aggregation.base import ROOT, Aggregation, Chosen, Coefficient, Comparing, Differences, PerCoordinate
from fedlit.aggregation.bulyan import Bulyan
from fedlit.aggregation.fltrust import FLTrust
from fedlit.aggregation.geometric_median import GeometricMedian
from fedlit.aggregation.krum import Krum, MultiKrum
from fedlit.aggregation.mean import Mean
from fedlit.aggregation.median import Median
from fedlit.aggregation.norm_clipping import NormClipping
from fedlit.aggregation.trimmed_mean import TrimmedMean
from fedlit.aggregation.update_guard import UpdateGuard

__all__ = [
    "ROOT",
    "Aggregation",
    "Bulyan",
    "Chosen",
    "Coefficient",
    "Comparing",
    "Differences",
    "FLTrust",
    "GeometricMedian",
    "Krum",
    "Mean",
    "Median",
    "MultiKrum",
    "NormClipping",
    "PerCoordinate",
    "TrimmedMean",
    "UpdateGuard",
]
