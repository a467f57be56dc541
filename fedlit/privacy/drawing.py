"""Which cases a step of private training sees: each by a draw of its own, and of each one picture."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch

from fedlit.data.pictures import Pictures
from fedlit.privacy.case_level import CasePrivacy
from fedlit.seeding import address
from fedlit.training import LocalTraining, Request

if TYPE_CHECKING:
    from fedlit.data.site import Site


def cases_of(pictures: Pictures) -> list[tuple[int, ...]]:
    """The pictures of every patient, in the order of their names."""
    found: dict[str, list[int]] = {}
    for case in pictures.cases:
        found.setdefault(case.group, []).extend(case.indices)
    return [tuple(found[group]) for group in sorted(found)]


def requests(plan: LocalTraining, privacy: CasePrivacy, site: Site, round: int) -> Iterator[list[Request]]:
    """The steps of a round, each of batches of at most `batch_size` pictures; none where nothing is drawn."""
    cases = cases_of(site.train)
    for step in range(privacy.steps_per_round):
        place = (plan.seed, site.seed_name, round, "step", step)
        drawn = chosen(len(cases), privacy, *place)
        indices = [cases[case][draw(privacy, *place, "picture", case) % len(cases[case])] for case in drawn]
        parts = [indices[start : start + plan.batch_size] for start in range(0, len(indices), plan.batch_size)]
        augmented = site.train.augmentation is not None
        yield [
            Request(part, [draw(privacy, *place, "augment", index) for index in part] if augmented else None)
            for part in parts
        ]


def chosen(num_cases: int, privacy: CasePrivacy, *place: int | str) -> list[int]:
    """The numbers of the cases that are drawn, each with chance `privacy.rate` whatever becomes of the others."""
    if privacy.settings.secure_noise:  # whoever knew the draws could tell who is not in them
        numbers = np.frombuffer(os.urandom(8 * num_cases), dtype=np.uint64) >> np.uint64(11)
        drawn = torch.from_numpy(numbers * 2.0**-53)
    else:
        generator = torch.Generator().manual_seed(address(*place, "cases"))
        drawn = torch.rand(num_cases, generator=generator, dtype=torch.float64)
    return (drawn < privacy.rate).nonzero().flatten().tolist()


def draw(privacy: CasePrivacy, *place: int | str) -> int:
    """A seed of 63 bits; from the system where noise is secure: by address it would change with the cases beside it."""
    return secrets.randbits(63) if privacy.settings.secure_noise else address(*place)
