"""Any tree of pictures and masks, described by two patterns such as `{site}/images/{case}.png`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np

from fedlit.data.manifest import SITE_NAME
from fedlit.errors import BadInput
from fedlit.preparation.cases import About, Case, Decoded, Found, Skipped
from fedlit.preparation.decoding import mask_values, picture, same_grid
from fedlit.preparation.layouts import Layout
from fedlit.preparation.patterns import Pattern, not_as_published, tree

LOOKED_AT = 50  # masks whose values are counted before anything is written
CROWDED = 0.9  # of the border of a picture: an organ seldom fills it, a background nearly always does
Classes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Folder:
    """`images` and `masks` are paths below SOURCE with {site}, {case} and, where a case has several pictures, {slice}.

    `foreground`: VALUE[,VALUE...] are the mask values of the one class `foreground`; NAME=VALUE[,VALUE...], once for
    each class, names several, which may share values. Without it any value but 0 is foreground, where masks have two.
    `site` names the one site of a pattern without {site}.
    """

    images: str = "{site}/images/{case}.*"
    masks: str = "{site}/masks/{case}.*"
    foreground: tuple[str, ...] = ()
    site: str | None = None

    def __post_init__(self) -> None:
        check_patterns(self.images, self.masks, self.site)
        parse_foreground(self.foreground)

    def find(self, source: Path) -> Found:
        pairs, skipped = found_pairs(self.images, self.masks, self.site, source, decode_picture)
        classes = parse_foreground(self.foreground) or seen_classes([case.sources[1] for case in pairs], mask_values)
        codes = codes_of(classes)
        cases = [replace(case, decode=partial(case.decode, codes=list(codes.items()))) for case in pairs]
        return Found(cases, skipped, described("Pictures of a folder", classes, codes))


def check_patterns(images: str, masks: str, site: str | None) -> None:
    for name, text in (("images", images), ("masks", masks)):
        names = Pattern(text).names
        if "case" not in names:
            raise ValueError(f"--{name} {text!r}: needs {{case}}, what differs from picture to picture")
        if unknown := set(names) - {"site", "case", "slice"}:
            raise ValueError(
                f"--{name} {text!r}: {', '.join(sorted(unknown))}; allowed are {{site}}, {{case}}, {{slice}}"
            )
    if ("site" in Pattern(images).names) == (site is not None):
        raise ValueError(f"--images {images!r}: name the site by {{site}} in the pattern, or else by --site NAME")
    if site is not None and not SITE_NAME.fullmatch(site):
        raise ValueError(f"--site {site!r}: allowed are letters, digits, blank and _ . + - inside")


def found_pairs(images: str, masks: str, site: str | None, source: Path,
                decode: Callable[..., Decoded]) -> tuple[list[Case], list[Skipped]]:  # fmt: skip
    """The pairs that two patterns find. Raises `BadInput` where there is none."""
    name, volume = ("{case}_{slice}", "{case}") if "slice" in Pattern(images).names else ("{case}", "")
    found = tree(source)
    cases, skipped = Layout(site or "{site}", images, (masks,), decode, name=name, volume=volume).find(found)
    if not cases:
        raise not_as_published("what the patterns say", found, [f"--images {images}", f"--masks {masks}"], skipped)
    return cases, skipped


def decode_picture(image: Path, mask: Path, codes: Sequence[tuple[int, int]]) -> Decoded:
    """`codes` are pairs of a value of the mask and what is written for it; any other value becomes 0."""
    array, values = picture(image), mask_values(mask)
    same_grid(array, values, mask)
    return Decoded(array, coded(values, codes))


def coded(values: np.ndarray, codes: Sequence[tuple[int, int]]) -> np.ndarray:
    out = np.zeros(values.shape, np.uint8)
    for value, code in codes:
        out[values == value] = code
    return out


def parse_foreground(words: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """class -> its mask values. Raises `ValueError`."""
    classes: dict[str, tuple[int, ...]] = {}
    for word in words:
        name, _, numbers = word.rpartition("=")
        name = name or "foreground"
        try:
            values = tuple(int(number) for number in numbers.split(","))
        except ValueError:
            raise ValueError(f"--foreground {word!r}: needs VALUE[,VALUE...] or NAME=VALUE[,VALUE...]") from None
        if name in classes:
            raise ValueError(f"--foreground names the class {name!r} twice; give all its values at once")
        classes[name] = values
    return classes


def codes_of(classes: Classes) -> dict[int, int]:
    """value -> what is written: 255 where all are one class, else 1, 2, ... in the order in which values are named.

    Raises `BadInput` on more than 254 values."""
    values = list(dict.fromkeys(value for own in classes.values() for value in own))
    if len(values) > 254:
        raise BadInput(f"--foreground names {len(values)} values; at most 254 are possible")
    return dict.fromkeys(values, 255) if len(classes) == 1 else {value: code for code, value in enumerate(values, 1)}


@dataclass
class Seen:
    """Values of masks, and how often each of them covers the border."""

    num_masks: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    fills_border: Counter[int] = field(default_factory=Counter)
    total: int = 0

    def add(self, mask: np.ndarray) -> None:
        """`mask` whole numbers [H, W] or [D, H, W]."""
        values, counts = np.unique(mask, return_counts=True)
        if len(values) > 255:
            raise BadInput(f"masks hold {len(values)} values, which are no labels; are --images and --masks swapped?")
        self.num_masks += 1
        self.total += mask.size
        rows, columns = mask[..., [0, -1], :], mask[..., [0, -1]]
        edges = np.concatenate([rows.ravel(), columns.ravel()])
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            self.pixels[value] += count
            self.fills_border[value] += bool((edges == value).mean() >= CROWDED)

    def is_background(self, value: int) -> bool:
        return self.pixels[value] > self.total / 2 and self.fills_border[value] >= 0.8 * self.num_masks


def seen_classes(masks: Sequence[Path], read: Callable[[Path], np.ndarray]) -> dict[str, tuple[int, ...]]:
    """What foreground is, from up to 50 masks spread over all. Nothing is guessed.

    Raises:
        BadInput: more than two values, foreground that looks inverted, or masks without foreground; names --foreground.
    """
    seen = Seen()
    ordered = sorted(masks)
    for place in range(0, len(ordered), max(1, len(ordered) // LOOKED_AT)):
        try:
            seen.add(read(ordered[place]))
        except BadInput:  # said when its case is decoded
            continue
    values = sorted(seen.pixels)
    shown = ", ".join(f"{value} ({seen.pixels[value] / max(seen.total, 1):.0%})" for value in values[:8])
    if not values or values == [0]:
        raise BadInput(f"the masks hold {'only 0' if values else 'nothing readable'}; is --masks right?")
    if len(values) > 2:
        raise BadInput(f"masks hold the values {shown}: name the classes, as --foreground NAME=VALUE for each of them")
    others = [value for value in values if value != 0]
    if 0 not in values:
        if len(values) == 1 or not any(seen.is_background(value) for value in values):
            raise BadInput(f"masks hold {shown} and no 0: say which is foreground by --foreground VALUE")
        others = [value for value in values if not seen.is_background(value)]
        raise BadInput(f"masks hold {shown} and no 0: if {others[0]} is meant, say --foreground {others[0]}")
    if any(seen.is_background(value) for value in others):
        raise BadInput(
            f"foreground looks inverted: masks hold {shown}, and {others[0]} fills the border of most pictures; say"
            f" --foreground 0 if 0 is what is to be found, or --foreground {others[0]} if it is right as it is"
        )
    return {"foreground": tuple(others)}


def described(title: str, classes: Classes, codes: Mapping[int, int]) -> About:
    labels: dict[str, int | list[int]] = {}
    for name, values in classes.items():
        written = sorted({codes[value] for value in values})
        labels[name] = written[0] if len(written) == 1 else written
    lines = [f"masks: {', '.join(map(str, values))} is {name}" for name, values in classes.items()]
    read = "; ".join(lines) + "; all else is background"
    return About(title, labels, (read,), "not known to this program: ask the owner of the data", "")
