"""Which values of masks are which class: as it is named, else as masks say beyond doubt, else as a person says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from fedlit.errors import BadInput
from fedlit.preparation.asking import asked_for
from fedlit.preparation.cases import About, Case, Found, Skipped

LOOKED_AT = 50  # masks whose values are counted before anything is written
CROWDED = 0.9  # of the border of a picture: an organ seldom fills it, a background nearly always does
Classes = Mapping[str, tuple[int, ...]]
Read = Callable[[Path], np.ndarray]  # whole numbers [H, W] or [D, H, W]


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


def coded(values: np.ndarray, codes: Sequence[tuple[int, int]]) -> np.ndarray:
    """uint8: what is written for each value. Values without a code become 0, unless some value has the code 0: then all
    are known, and another one is refused (`BadInput`)."""
    out, num_known = np.zeros(values.shape, np.uint8), 0
    for value, code in codes:
        where = values == value
        out[where] = code
        num_known += int(np.count_nonzero(where))
    if num_known < values.size and 0 in (code for _, code in codes):
        other = set(pixels_by_value(values)) - {value for value, _ in codes}
        known = _listed([value for value, _ in codes])
        raise BadInput(f"its mask holds {_listed(other)}, other masks {known} alone: name the classes by --foreground")
    return out


def labelled(cases: Sequence[Case], skipped: list[Skipped], read: Read, foreground: Sequence[str], title: str,
             notes: Sequence[str] = ()) -> Found:  # fmt: skip
    """The cases, decoding their masks (the last of their sources) to the classes that are named or seen.

    Raises:
        BadInput: no mask has a value that is named, or as `seen_classes`; says what masks have, and --foreground.
    """
    masks = [case.sources[-1] for case in cases]
    classes, background = parse_foreground(foreground), tuple[int, ...]()
    if classes:
        check_present(classes, masks, read)
    else:
        classes, background = seen_classes(masks, read)
    codes = codes_of(classes)
    pairs = (*codes.items(), *((value, 0) for value in background))
    cases = [replace(case, decode=partial(case.decode, codes=pairs)) for case in cases]
    about = described(title, classes, codes)
    return Found(cases, skipped, about, [*notes], lost=partial(lost_classes, about.labels, classes, read))


def check_present(classes: Classes, masks: Sequence[Path], read: Read) -> None:
    """Raises `BadInput` where no mask has a value that is named."""
    wanted = {value for own in classes.values() for value in own}
    found: set[int] = set()
    for values in map(set, _values(_spread(masks), read)):  # the first mask ends this, where all is well
        if values & wanted:
            return
        found |= values
    if found:  # else none can be read: said when their cases are decoded
        raise BadInput(
            f"no mask has a pixel of {' or '.join(map(_told, classes.items()))}: the {len(masks)} masks hold"
            f" {_listed(found)}; name the values that are to be found by --foreground"
        )


def lost_classes(
    labels: Mapping[str, int | list[int]], classes: Classes, read: Read | None, present: Collection[int],
    cases: Sequence[Case],
) -> list[Skipped]:  # fmt: skip
    """Classes that no mask shows.

    Args:
        labels: class -> what is written for it.
        read: gives the values of a mask as they were; None where a class has no value of its own.
        present: all values in the masks that were written.
        cases: those whose masks they are.
    """
    codes = {name: set(own if isinstance(own, list) else [own]) for name, own in labels.items()}
    lost = [name for name, own in codes.items() if not own & set(present)]
    if not lost or read is None:
        told = "no mask has a pixel of it; name the others by --foreground, and it is left away"
        return [Skipped(f"class {name}", told) for name in lost]
    masks = [case.sources[-1] for case in cases]
    looked_at = _some(masks)
    held = _listed({value for values in _values(looked_at, read) for value in values})
    number = len(masks) if len(looked_at) == len(masks) else f"{LOOKED_AT} of {len(masks)}"
    way_out = "name its values by --foreground, or leave the class away"
    return [
        Skipped(
            f"class {name}",
            f"no mask has a pixel of {_told((name, classes[name]))}: {number} masks hold {held}; {way_out}",
        )
        for name in lost
    ]


def pixels_by_value(mask: np.ndarray) -> dict[int, int]:
    """value -> how often a mask of whole numbers has it, smallest first."""
    wide = mask.astype(np.uint16) if mask.dtype == np.uint8 else mask  # several times as fast (measured)
    values, counts = np.unique(wide, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


@dataclass
class Seen:
    """Values of masks, and how often each of them covers the border."""

    num_masks: int = 0
    pixels: Counter[int] = field(default_factory=Counter)
    fills_border: Counter[int] = field(default_factory=Counter)
    total: int = 0

    def add(self, mask: np.ndarray) -> None:
        """`mask` whole numbers [H, W] or [D, H, W]."""
        counts = pixels_by_value(mask)
        if len(counts) > 255:
            raise BadInput(f"masks hold {len(counts)} values, which are no labels; are --images and --masks swapped?")
        self.num_masks += 1
        self.total += mask.size
        rows, columns = mask[..., [0, -1], :], mask[..., [0, -1]]
        edges = np.concatenate([rows.ravel(), columns.ravel()])
        for value, count in counts.items():
            self.pixels[value] += count
            self.fills_border[value] += bool((edges == value).mean() >= CROWDED)

    def is_background(self, value: int) -> bool:
        return self.pixels[value] > self.total / 2 and self.fills_border[value] >= 0.8 * self.num_masks


def seen_classes(masks: Sequence[Path], read: Read) -> tuple[dict[str, tuple[int, ...]], tuple[int, ...]]:
    """What foreground and what background is, from up to 50 masks spread over all; where it looks inverted, what a
    person says.

    Raises:
        BadInput: more than two values, foreground that looks inverted, or masks without foreground; names --foreground.
    """
    seen, refused = Seen(), []
    for path in _some(masks):
        try:
            seen.add(read(path))
        except BadInput as error:  # said again when its case is decoded
            refused.append(error)
    values = sorted(seen.pixels)
    shown = ", ".join(f"{value} ({seen.pixels[value] / max(seen.total, 1):.0%})" for value in values[:8])
    if not values:
        raise BadInput(f"no mask can be read, as {refused[0]}" if refused else "there is no mask; is --masks right?")
    if values == [0]:
        raise BadInput("the masks hold only 0; is --masks right?")
    if len(values) > 2:
        raise BadInput(f"masks hold the values {shown}: name the classes, as --foreground NAME=VALUE for each of them")
    others = [value for value in values if value != 0]
    behind = [value for value in others if seen.is_background(value)]
    if 0 in values and not behind:
        return {"foreground": tuple(others)}, (0,)
    if 0 not in values and (len(values) == 1 or not behind):
        raise BadInput(f"masks hold {shown} and no 0: say which is foreground by --foreground VALUE")
    (likely,) = [value for value in values if value not in behind]
    refusal = (
        f"foreground looks inverted: masks hold {shown}, and {behind[0]} fills the border of most pictures; say"
        f" --foreground 0 if 0 is what is to be found, or --foreground {behind[0]} if it is right as it is"
        if 0 in values
        else f"masks hold {shown} and no 0: if {likely} is meant, say --foreground {likely}"
    )
    told = f"masks hold {shown}, and {behind[0]} fills the border of most pictures: {likely} looks like the foreground"
    chosen = asked_for(told, (likely, behind[0]), refusal)
    return {"foreground": (chosen,)}, tuple(value for value in values if value != chosen)


def described(title: str, classes: Classes, codes: Mapping[int, int]) -> About:
    labels: dict[str, int | list[int]] = {}
    for name, values in classes.items():
        written = sorted({codes[value] for value in values})
        labels[name] = written[0] if len(written) == 1 else written
    lines = [f"masks: {', '.join(map(str, values))} is {name}" for name, values in classes.items()]
    read = "; ".join(lines) + "; all else is background"
    return About(title, labels, (read,), "not known to this program: ask the owner of the data", "")


def _spread(masks: Sequence[Path]) -> Iterator[Path]:
    """All of them; the first 50 lie far apart."""
    ordered, step = sorted(masks), max(1, len(masks) // LOOKED_AT)
    for start in range(step):
        yield from ordered[start::step]


def _some(masks: Sequence[Path]) -> list[Path]:
    """Up to 50 of them, far apart."""
    return [*islice(_spread(masks), LOOKED_AT)]


def _values(masks: Collection[Path] | Iterator[Path], read: Read) -> Iterator[list[int]]:
    for path in masks:
        try:
            yield [*pixels_by_value(read(path))]
        except BadInput:  # said when its case is decoded
            continue


def _told(named: tuple[str, tuple[int, ...]]) -> str:
    name, values = named
    return f"{name} ({', '.join(map(str, values))})"


def _listed(values: Collection[int]) -> str:
    return ", ".join(map(str, sorted(values)[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")
