"""Published layouts as data: where pictures and their masks lie, and how the two are paired."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fedlit.preparation.cases import Case, Decoded, Skipped
from fedlit.preparation.patterns import Pattern, Tree, not_as_published
from fedlit.units import counted


@dataclass(frozen=True)
class Layout:
    """One data set: a picture belongs to the masks whose names in braces have the same texts.

    `site`, `name` and `group` are filled in from the picture's names. `splits` gives the split of a text of {part}.
    `decode(image, *masks)` takes paths.
    """

    site: str
    image: str
    masks: tuple[str, ...]
    decode: Callable[..., Decoded]
    name: str = "{case}"
    group: str = "{case}"
    splits: Mapping[str, str] = field(default_factory=dict)
    volume: str = ""  # where {slice} is the number of a slice in it
    is_optional: bool = False  # masks are not handed out for all pictures: those without are left out silently
    optional_parts: tuple[str, ...] = ()  # texts of {part} of which that is so
    is_alternative: bool = False  # another copy of a site: only for splits that no layout before it has found

    def find(self, found: Tree) -> tuple[list[Case], list[Skipped]]:
        """Cases, and what has no partner; where one side is missing as a whole, that is said once."""
        image_pattern = Pattern(self.image)
        mask_patterns = [Pattern(text) for text in self.masks]
        images = [
            (file, names)
            for file, names in found.matching(image_pattern)
            if not any(pattern.match(file) for pattern in mask_patterns)
        ]
        masks = [self._indexed(found, pattern, image_pattern) for pattern in mask_patterns]
        if not images:
            lost = next((str(p) for p, by_key in zip(mask_patterns, masks, strict=True) if by_key), None)
            return [], [Skipped(self.label, f"masks as {lost}, but no picture{self._as_named}")] if lost else []
        for pattern, by_key in zip(mask_patterns, masks, strict=True):
            if not by_key:
                told = f"{counted(len(images), 'picture')}{self._as_named}, but no mask as {pattern}"
                return [], [Skipped(self.label, told)]
        cases, skipped, used = [], [], defaultdict(set)
        for file, names in images:
            chosen = []
            for number, (pattern, by_key) in enumerate(zip(mask_patterns, masks, strict=True)):
                key = self._key(names, pattern, image_pattern)
                used[number].add(key)
                candidates = by_key.get(key, [])
                if len(candidates) == 1:
                    chosen.append(candidates[0])
                elif candidates or not (self.is_optional or names.get("part", "").lower() in self.optional_parts):
                    several = f"several masks: {', '.join(candidates)}" if candidates else f"no mask as {pattern}"
                    skipped.append(Skipped(file, several))
                    break
            if len(chosen) == len(masks):
                cases.append(self._case(found, file, chosen, names))
        skipped += [
            Skipped(path, f"a mask without a picture as {image_pattern}")
            for number, by_key in enumerate(masks)
            for key, paths in by_key.items()
            if key not in used[number]
            for path in paths
        ]
        return cases, skipped

    def __str__(self) -> str:
        return f"{self.label}: {Pattern(self.image)} with {' and '.join(str(Pattern(mask)) for mask in self.masks)}"

    @property
    def label(self) -> str:
        return self.site.split("{")[0].strip(" -_") or str(Pattern(self.image))

    @property
    def _as_named(self) -> str:
        """What follows the word picture, where the label does not say it already."""
        shown = str(Pattern(self.image))
        return "" if shown == self.label else f" as {shown}"

    @staticmethod
    def _key(names: Mapping[str, str], mask: Pattern, image: Pattern) -> tuple[str, ...]:
        return tuple(names[name].lower() for name in mask.names if name in image.names)

    def _indexed(self, found: Tree, mask: Pattern, image: Pattern) -> dict[tuple[str, ...], list[str]]:
        by_key: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for file, names in found.matching(mask):
            by_key[self._key(names, mask, image)].append(file)
        return by_key

    def _case(self, found: Tree, image: str, masks: Sequence[str], names: Mapping[str, str]) -> Case:
        paths: list[Path] = [found.path(file) for file in (image, *masks)]
        return Case(
            site=self.site.format_map(names),
            name=self.name.format_map(names),
            group=self.group.format_map(names),
            decode=partial(self.decode, *paths),
            sources=tuple(paths),
            split=self.splits.get(names.get("part", "").lower()),
            slice_of=(self.volume.format_map(names), str(int(names["slice"]))) if self.volume else None,
        )


@dataclass(frozen=True)
class NotRead:
    """A layout that goes round and that no reader knows: `sign` is a pattern of its files."""

    what: str
    sign: str
    instead: str  # what to do with it

    def __str__(self) -> str:
        return f"{self.what}: not read; {self.instead}"


def all_cases(
    title: str, found: Tree, layouts: Sequence[Layout], not_read: Sequence[NotRead] = ()
) -> tuple[list[Case], list[Skipped]]:
    """The cases of every layout that is there.

    Raises:
        BadInput: not a case of any of them; names the layouts of `not_read` that are there.
    """
    cases: list[Case] = []
    skipped: list[Skipped] = []
    unused: list[Skipped] = []
    for layout in layouts:
        some, left_out = layout.find(found)
        if layout.is_alternative:
            some = _further(some, cases)
            (skipped if some else unused).extend(left_out)
            if some:  # what the other copy lacks, this one has
                skipped = [each for each in skipped if each.what != layout.label]
        else:
            skipped += left_out
        cases += some
    if not cases:
        expected = [f"{layout.label}: {Pattern(layout.image)}" for layout in layouts]
        raise not_as_published(title, found, expected, [*skipped, *unused], there(found, not_read))
    used = {str(path.relative_to(found.root)) for case in cases for path in case.sources}
    return cases, [each for each in skipped if each.what not in used]


def there(found: Tree, not_read: Sequence[NotRead]) -> list[str]:
    """Of the layouts that are not read, those whose files are there."""
    return [str(each) for each in not_read if found.matching(Pattern(each.sign))]


def readings(how: Mapping[str, str], sites: Collection[str]) -> list[str]:
    """How the masks of each of these sites are read."""
    return [how[site] for site in sorted(sites)]


def absent(sites: Iterable[str], cases: Sequence[Case], found: Tree) -> list[str]:
    """A line that names the sites of which SOURCE holds no case, and archives that may hold them."""
    there = {case.site for case in cases}
    lost = [site for site in dict.fromkeys(sites) if site not in there]
    packed = found.still_packed()
    return [f"not found in SOURCE: cases of {', '.join(lost)}" + (f"; {packed}" if packed else "")] if lost else []


def _further(some: Sequence[Case], known: Sequence[Case]) -> list[Case]:
    """Of another copy of a site: its cases in splits, and with names, that are not yet there."""
    splits = {(case.site, case.split) for case in known}
    names = {(case.site, case.name) for case in known}
    return [case for case in some if (case.site, case.split) not in splits and (case.site, case.name) not in names]
