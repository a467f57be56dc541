"""What a run directory says, whichever of its files are there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedlit.errors import BadInput
from fedlit.patients import Patients, read_patients
from fedlit.provenance import anonymous, is_secret, masked
from fedlit.record import CaseRow, GateRow, MetricRow, Record
from fedlit.summary import summarise


@dataclass(frozen=True)
class Run:
    """What a run directory says: all rows of metrics.csv, of the other tables those of the round and split shown."""

    name: str
    summary: Mapping[str, Any]
    rows: Sequence[MetricRow]
    cases: Sequence[CaseRow]
    gates: Sequence[GateRow]
    config: Mapping[str, str]
    provenance: Mapping[str, str]

    @property
    def sites(self) -> Mapping[str, Mapping[str, Any]]:
        return self.summary.get("sites") or {}

    def model_at(self, site: str) -> str | None:
        """The model by which a site is shown."""
        trained = self.sites.get(site, {}).get("role") == "member"
        return self.summary.get("model") if trained else self.summary.get("model_elsewhere", self.summary.get("model"))


def read_run(run_dir: Path) -> Run:
    summary = _load(run_dir / "summary.json", json.loads)
    rows = list(Record(run_dir).metrics())
    is_finished = bool(summary.get("sites"))
    if not is_finished:
        summary = {**_so_far(rows), **summary}
    where = summary.get("round", summary.get("kept_round")), summary.get("split", "test")
    cases = [row for row in Record(run_dir).cases() if (row.round, row.split) == where]
    gates = [row for row in Record(run_dir).gates() if (row.round, row.split) == where]
    if is_finished:
        summary = _with_further_sites(summary, rows, cases, read_patients(run_dir))
    config = _load(run_dir / "config.yaml", _read_yaml)
    name = str(summary.get("name") or config.get("name") or run_dir.resolve().name)
    provenance = _flat(_load(run_dir / "provenance.json", json.loads))
    return Run(name, summary, rows, cases, gates, _flat(config), provenance)


def _load(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = parse(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} instead of a mapping")
    except ValueError as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it or remove it, the report does without") from None
    return value


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; secrets masked, home directories shortened."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        key = f"{prefix}{key}"
        if isinstance(item, list) and any(isinstance(part, dict | list) for part in item):
            item = {str(index): part for index, part in enumerate(item)}
        if isinstance(item, dict) and item:
            flat |= _flat(item, f"{key}.")
            continue
        text = ", ".join(map(str, item)) if isinstance(item, list) else "" if item is None else str(item)
        flat[key] = "***" if is_secret(key) and text else anonymous(masked(text))
    return flat


def _so_far(rows: Sequence[MetricRow]) -> dict[str, Any]:
    """A summary of an unfinished run: its newest scores. metrics.csv knows no cases, so there are no intervals."""
    scored = [row for row in rows if row.metric == "dice" and row.split != "train"]
    if not scored:
        return {}
    last = max(scored, key=lambda row: row.round)
    here = [row for row in rows if (row.round, row.model, row.split) == (last.round, last.model, last.split)]
    values = [CaseRow(row.round, row.site, "", row.model, row.split, "", row.metric, row.value) for row in here]
    summary = summarise(values, here, round=last.round, model=last.model, split=last.split)
    for row in here:
        summary["sites"][row.site][row.metric]["num_cases"] = row.num_cases
    return summary | {"unfinished": True}


def _with_further_sites(
    summary: dict[str, Any], rows: Sequence[MetricRow], cases: Sequence[CaseRow], patients: Patients | None
) -> dict[str, Any]:
    """The summary, and in it the sites that only the record has: scored later, or by no predictor that it shows.

    They are shown by the predictor that the summary has for sites that never trained. Where it has none, that is the
    one that scored most of them. A site that it did not score has a role and no number.
    """
    known, where = summary["sites"], {name: summary[name] for name in ("round", "split", "model")}
    here = [row for row in rows if (row.round, row.split, row.metric) == (where["round"], where["split"], "dice")]
    further = {row.site: row.role for row in here if row.site not in known}
    if not further:
        return summary
    elsewhere = summary.get("model_elsewhere")
    if elsewhere is None and all(scores["role"] == "member" for scores in known.values()):
        num_scored = Counter(row.model for row in here if row.site in further)
        elsewhere = where["model"] if where["model"] in num_scored else num_scored.most_common(1)[0][0]
    found = summarise(cases, rows, **where, elsewhere=elsewhere, patients=patients)
    told = {name: value for name, value in found.items() if name.startswith("unseen_") or name == "model_elsewhere"}
    sites = found["sites"] | known
    blank = {site: {"role": role} for site, role in further.items() if site not in sites}
    return {**summary, **told, "sites": sites | blank}


def notices(summary: Mapping[str, Any]) -> list[str]:
    """What the reader must know before believing the numbers."""
    found = []
    if summary.get("unfinished"):
        found.append(f"The run is not finished: these are the {summary['split']} scores of round {summary['round']}.")
    if privacy := summary.get("privacy"):
        worth = "infinite" if privacy["epsilon"] is None else f"{privacy['epsilon']:.3g}"
        found.append(f"Differential privacy: epsilon {worth} at delta {privacy['delta']:g}; {privacy['noise']}.")
    dropped = summary.get("dropped") or ()
    if isinstance(dropped, Mapping):
        dropped = [f"{site}: {reason}" for site, reason in dropped.items()]
    found += [f"Dropped client: {text}" for text in dropped]
    for site, counts in (summary.get("guard") or {}).items():
        if any(counts.values()):
            found.append(f"Update guard: {site} was dropped {counts['dropped']} x and clipped {counts['clipped']} x.")
    return found + [f"Warning: {text}" for text in summary.get("warnings") or ()]
