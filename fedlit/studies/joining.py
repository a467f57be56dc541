"""Should this hospital join? What each has alone, and what a federation brings it, with intervals over its patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedlit.report.tables import format_number, metric_name
from fedlit.seeding import address
from fedlit.significance import FEWEST, by_patient
from fedlit.studies.comparing import Comparison, Group
from fedlit.studies.numbers import paired
from fedlit.studies.results import is_lower_better, mean, patients_of
from fedlit.summary import bootstrap_interval

LOCAL, FEDERATED, PERSONAL, CENTRALISED = "local only", "global", "personal", "centralised"
KINDS = (LOCAL, FEDERATED, PERSONAL, CENTRALISED)


@dataclass(frozen=True)
class Estimate:
    """A mean over patients and its 95 % bootstrap interval; None for one of them.

    Args:
        units: `patients`, or `cases` where nobody knows of whom they are.
    """

    mean: float
    low: float | None
    high: float | None
    num_units: int
    units: str = "patients"

    @staticmethod
    def of(values: Sequence[float], *seed: str, units: str = "patients") -> Estimate:
        low, high = bootstrap_interval(values, seed=address("bootstrap", *seed)) if len(values) > 1 else (None, None)
        found = mean(values)
        assert found is not None
        return Estimate(found, low, high, len(values), units)


@dataclass(frozen=True)
class Choice:
    """A model that a hospital may have.

    Args:
        score: over its patients, each the mean over its cases.
        gain: over what it has alone, case by case, positive where this is better; None where that is not known.
    """

    kind: str
    name: str
    score: Estimate
    gain: Estimate | None


@dataclass(frozen=True)
class Hospital:
    """A site with its choices, in the order of KINDS, and what they say, a sentence each."""

    site: str
    choices: tuple[Choice, ...]
    sentences: tuple[str, ...]


def hospitals(comparison: Comparison, metric: str) -> list[Hospital]:
    """Every member with the models that the given runs have for it."""
    found = []
    for site in comparison.members:
        choices = choices_of(comparison, site, metric)
        if len(choices) > 1:
            found.append(Hospital(site, tuple(choices), tuple(sentences(site, choices, metric))))
    return found


def kind_of(group: Group, model: str) -> str | None:
    """What a model of these runs is to a member; None for predictors that no member needs."""
    own = {"Local": {"personal": LOCAL}, "Centralized": {"global": CENTRALISED}}
    return own.get(group.algorithm, {"global": FEDERATED, "personal": PERSONAL}).get(model)


def choices_of(comparison: Comparison, site: str, metric: str) -> list[Choice]:
    """The models for a site; what a case scores is the mean over seeds."""
    values = {}
    for group in comparison.groups:
        for model in group.models:
            cases = [result.scores(site, metric, model) for result in group.results]
            kind = kind_of(group, model)
            if kind and all(cases):
                names = dict.fromkeys(case for scores in cases for case in scores)
                values[kind, group.name] = {(site, case): mean(each.get(case) for each in cases) for case in names}
    alone = [key for key in values if key[0] == LOCAL]
    patients = patients_of(result for group in comparison.groups for result in group.results)
    units = "cases" if patients is None else "patients"
    choices = []
    for (kind, name), scores in sorted(values.items(), key=lambda item: KINDS.index(item[0][0])):
        counted = by_patient({case: value for case, value in scores.items() if value is not None}, patients)
        if not counted:
            continue
        gain = None
        if len(alone) == 1 and kind != LOCAL:
            sign = -1 if is_lower_better(metric) else 1
            gains = by_patient(paired(scores, values[alone[0]]) or {}, patients)
            signed = [sign * gains[patient] for patient in sorted(gains)]
            gain = Estimate.of(signed, site, metric, kind, name, units=units) if signed else None
        score = Estimate.of([counted[patient] for patient in sorted(counted)], site, metric, units=units)
        choices.append(Choice(kind, name, score, gain))
    return choices


def sentences(site: str, choices: Sequence[Choice], metric: str) -> list[str]:
    """What joining brings the site, a sentence for each federated model."""
    federated = [choice for choice in choices if choice.kind in (FEDERATED, PERSONAL)]
    several = len({choice.name for choice in federated}) > 1
    found = []
    for choice in federated:
        model = "the global model" if choice.kind == FEDERATED else "a personal model"
        what = f"{model} of {choice.name}" if several else model
        if choice.gain is not None:
            found.append(sentence(site, what, choice.gain, metric))
    return found


def sentence(site: str, what: str, gain: Estimate, metric: str) -> str:
    """`With a personal model joining improves the Dice of north by 0.034 (95 % interval +0.010 to +0.058, ...).`"""
    count = f"{gain.num_units} {gain.units if gain.num_units > 1 else gain.units[:-1]}"
    unclear = f"Whether joining helps {site} with {what} cannot be told from {count}: {_signed(gain.mean, metric)}"
    if gain.low is None or gain.high is None or gain.num_units < FEWEST:
        return f"{unclear}."
    between = f"95 % interval {_signed(gain.low, metric)} to {_signed(gain.high, metric)}"
    if gain.low <= 0 <= gain.high:
        return f"{unclear} ({between})."
    verb = "improves" if gain.mean > 0 else "worsens"
    size = format_number(abs(gain.mean), metric)
    return f"With {what} joining {verb} the {metric_name(metric)} of {site} by {size} ({between}, {count})."


def _signed(value: float, metric: str) -> str:
    return ("-" if value < 0 else "+") + format_number(abs(value), metric)
