"""Any tree of pictures and masks, described by two patterns such as `{site}/images/{case}.png`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fedlit.data.manifest import SITE_NAME
from fedlit.preparation.cases import Case, Decoded, Found, Skipped
from fedlit.preparation.decoding import mask_values, picture, same_grid
from fedlit.preparation.foreground import coded, labelled, parse_foreground
from fedlit.preparation.layouts import Layout
from fedlit.preparation.patterns import Pattern, not_as_published, tree


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
        return labelled(pairs, skipped, mask_values, self.foreground, "Pictures of a folder")


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
    """`codes` are pairs of a value of the mask and what is written for it, as `coded` takes them."""
    array, values = picture(image), mask_values(mask)
    same_grid(array, values, mask)
    return Decoded(array, coded(values, codes))
