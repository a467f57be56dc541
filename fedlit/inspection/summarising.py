"""What the cases of a site have in common, and how far the sites are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedlit.data.manifest import SPLITS
from fedlit.inspection.measuring import FEATURES, NUM_BINS, Look


@dataclass(frozen=True)
class SiteSummary:
    """Numbers of a site, intensities in [0, 1].

    Args:
        num_cases: what is scored once: pictures that stand alone, and volumes.
        num_volumes: of these, in files of their own or in slices.
        num_pictures: what is trained on: pictures and slices.
        splits: cases in train, val and test; empty where the manifest has no splits.
        brightness, contrast: mean over cases.
        foreground: shares of the pixels of the cases, smallest first.
        histogram: [NUM_BINS], the mean over cases.
        distance: to the mean of the other sites' histograms, see `distance`; None of a site alone.
    """

    name: str
    num_cases: int
    num_volumes: int
    num_pictures: int
    num_patients: int
    splits: tuple[int, ...]
    sizes: str
    spacing: str
    stored: str
    values: str
    brightness: float
    contrast: float
    foreground: np.ndarray
    num_empty: int
    histogram: np.ndarray
    distance: float | None

    @property
    def middle_half(self) -> str:
        """The quartiles of the foreground in percent: `12–18 %`."""
        low, high = (f"{100 * value:.3g}" for value in np.quantile(self.foreground, (0.25, 0.75)))
        return f"{low} %" if low == high else f"{low}–{high} %"


def summaries(cases: Sequence[Look], histograms: Mapping[str, np.ndarray]) -> list[SiteSummary]:
    """The sites, the farthest from the others first.

    Args:
        histograms: by site, summed over its cases.
    """
    means = {site: total / total.sum() for site, total in histograms.items()}
    found = []
    for site, mean in sorted(means.items()):
        own = [look for look in cases if look.row.site == site]
        others = [other for name, other in means.items() if name != site]
        far = distance(mean, np.mean(others, axis=0)) if others else None
        found.append(_summary(site, own, mean, far))
    return sorted(found, key=lambda summary: (-(summary.distance or 0), summary.name))


def _summary(site: str, own: Sequence[Look], histogram: np.ndarray, far: float | None) -> SiteSummary:
    features = np.mean([look.features for look in own], axis=0)
    splits = Counter(look.row.split for look in own)
    return SiteSummary(
        site,
        num_cases=len(own),
        num_volumes=sum(look.is_volume for look in own),
        num_pictures=sum(look.num_pictures for look in own),
        num_patients=len({look.row.group for look in own}),
        splits=() if None in splits else tuple(splits[split] for split in SPLITS),
        sizes=_range([look.size for look in own], "{:.0f}"),
        spacing=_range([look.spacing for look in own if look.spacing], "{:.3g}") or "unknown",
        stored=_stored(own),
        values=", ".join(map(str, sorted({value for look in own for value in look.values})[:8])),
        brightness=float(features[0]),
        contrast=float(features[1]),
        foreground=np.sort([look.foreground for look in own]),
        num_empty=sum(look.is_empty for look in own),
        histogram=histogram,
        distance=far,
    )


def _range(tuples: Iterable[Sequence[float]], shape: str) -> str:
    """`256 x 256`, or `200-512 x 180-400` where they differ."""
    tuples = list(tuples)
    if len({len(one) for one in tuples}) != 1:
        return "" if not tuples else "varies"
    ends = [(min(axis), max(axis)) for axis in zip(*tuples, strict=True)]
    return " × ".join(
        shape.format(low) if low == high else f"{shape.format(low)}–{shape.format(high)}" for low, high in ends
    )


def _stored(own: Sequence[Look]) -> str:
    colours = {1: "grey", 3: "colour"}
    kinds = sorted({f"{colours[look.channels]} {look.dtype}" for look in own})
    return f"{', '.join(kinds)}, {min(look.low for look in own):g} to {max(look.high for look in own):g}"


def distance(one: np.ndarray, two: np.ndarray) -> float:
    """How far intensities must be moved to make one histogram the other (the first Wasserstein distance), in [0, 1]."""
    return float(np.abs(np.cumsum(one - two))[:-1].sum() / NUM_BINS)


@dataclass(frozen=True)
class Map:
    """Cases in two dimensions: `places` [N, 2], and what each axis means."""

    places: np.ndarray
    axes: tuple[str, str]


def feature_map(cases: Sequence[Look]) -> Map | None:
    """The first two principal components of the cases' standardised features; None of fewer than three cases."""
    features = np.array([look.features for look in cases], np.float64)
    if len(features) < 3:
        return None
    spread = features.std(axis=0)
    varies = spread > 1e-6
    if varies.sum() < 2:
        return None
    standard = (features[:, varies] - features[:, varies].mean(axis=0)) / spread[varies]
    names = [name for name, is_used in zip(FEATURES, varies, strict=True) if is_used]
    values, vectors = np.linalg.eigh(standard.T @ standard)  # ascending
    axes, loadings = [], []
    for number in (-1, -2):
        loading = vectors[:, number]
        order = np.argsort(-np.abs(loading))
        loading = loading * np.sign(loading[order[0]])  # eigenvectors have no sign of their own
        told = ", ".join(("" if loading[place] > 0 else "less ") + names[place] for place in order[:3])
        axes.append(f"{told} ({100 * max(0.0, values[number]) / values.sum():.0f} %)")
        loadings.append(loading)
    return Map(standard @ np.stack(loadings, axis=1), (axes[0], axes[1]))
