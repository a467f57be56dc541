"""Hospitals that differ the way hospitals do: patients, diseases, machines, and how many cases they have."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from fedlit.seeding import address


@dataclass(frozen=True)
class Hospital:
    """How one hospital's patients and pictures look.

    Rates are probabilities; absorption is 0 in air and about 1 behind the heart; lengths without a unit are in half
    picture widths.
    """

    name: str
    num_cases: tuple[int, int, int]  # train, val, test pictures at scale 1
    revisits: float = 0.2  # share of patients with two pictures
    field_mm: float = 400.0  # what one side of the picture measures at the patient
    zoom: float = 0.95  # size of the patient in the picture
    spread: float = 0.05  # of the patients' size, and of position and rotation (radians) from picture to picture
    child: float = 0.0  # 0 adult .. 1 infant: short lungs, wide mediastinum, large heart
    inspiration: float = 0.0  # positive: deep breath, negative: high diaphragm and wide heart
    consolidation: float = 0.15  # rate, per lung
    effusion: float = 0.08  # rate, per lung
    haze: float = 0.15  # strength of diffuse opacities
    devices: float = 0.05  # rate of tubes, leads, pacemakers
    level: float = 0.56  # absorption shown as middle grey
    width: float = 0.55  # absorption from there to almost white
    gamma: float = 1.0
    equalise: float = 0.0  # the vendor's compression of large-scale contrast, 0 .. 1
    scatter: float = 0.1  # share of the exposure that carries no detail
    blur: float = 0.006
    noise: float = 0.008  # standard deviation, in absorption
    grain: float = 0.006  # correlation length of the noise
    heel: float = 0.0  # exposure gradient across the picture, in absorption
    collimation: float = 0.1  # rate
    letterbox: float = 0.0  # rate
    inverted: float = 0.0  # rate of pictures with black bones
    marker: str = "L"


MEMBERS = (
    # a teaching hospital: outpatients, digital detectors
    Hospital("north", (96, 14, 24)),
    # a clinic for dock workers: dusty lungs, hard contrast, large patients in a small field
    Hospital(
        "harbour", (40, 6, 12), field_mm=360.0, zoom=1.08, consolidation=0.5, haze=0.4, level=0.64, width=0.36,
        gamma=1.25, equalise=0.35, noise=0.006, heel=0.1, collimation=0.5, marker="R",
    ),
    # an archive of scanned films, some of them shown as negatives
    Hospital(
        "valley", (20, 4, 10), field_mm=430.0, spread=0.07, inspiration=0.4, level=0.5, width=0.7, scatter=0.25,
        blur=0.022, noise=0.02, grain=0.016, letterbox=0.6, inverted=0.25,
    ),
    # small bodies that do not keep still
    Hospital(
        "children", (12, 4, 10), field_mm=300.0, zoom=0.85, spread=0.08, child=0.7, inspiration=-0.4, effusion=0.0,
        haze=0.25, level=0.55, width=0.48, gamma=0.9, noise=0.01, collimation=0.5,
    ),
    # intensive care: supine, mobile machine without a grid, tubes, fluid
    Hospital(
        "icu", (8, 4, 10), revisits=0.5, field_mm=420.0, zoom=0.98, spread=0.1, inspiration=-1.0, consolidation=0.5,
        effusion=0.55, haze=0.7, devices=0.95, level=0.52, width=0.75, gamma=0.9, scatter=0.4, noise=0.016, marker="R",
    ),
)  # fmt: skip
# computed radiography plates, little dose, narrow field
UNSEEN = Hospital(
    "rural", (16, 4, 12), field_mm=350.0, zoom=0.9, spread=0.08, consolidation=0.3, effusion=0.15, haze=0.3, level=0.68,
    width=0.5, gamma=1.4, blur=0.014, noise=0.014, grain=0.009, heel=0.12, collimation=0.9, letterbox=0.3,
)  # fmt: skip
SERVER = Hospital("server", (24, 4, 8), spread=0.07, consolidation=0.25, haze=0.25, devices=0.2, width=0.5, noise=0.012)
FURTHER = ("abbey", "bridge", "castle", "delta", "east", "forest", "garden", "hill", "island", "junction")


def members(count: int) -> tuple[Hospital, ...]:
    """The first `count` of 15 hospitals; those after the fifth are mixtures of two of the first five."""
    return (*MEMBERS, *(mixture(name) for name in FURTHER))[:count]


def mixture(name: str) -> Hospital:
    """A hospital between two others, each of its features nearer to the one or the other; its name decides all."""
    rng = np.random.default_rng(address("hospital", name))
    first, second = (MEMBERS[number] for number in rng.permutation(len(MEMBERS))[:2])
    mixed: dict = {"name": name, "marker": first.marker, "num_cases": (int(rng.integers(8, 49)), 4, 10)}
    for field in fields(Hospital):
        if field.name not in mixed:
            share, one, other = rng.random(), getattr(first, field.name), getattr(second, field.name)
            mixed[field.name] = round(float(one + share * (other - one)), 4)
    return Hospital(**mixed)
