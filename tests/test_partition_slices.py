"""Volumes that are kept as slices stay whole when a pooled set is dealt, also where two hospitals use one name."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict

import pytest

from fedlit.data import Manifest
from fedlit.inspection import inspect
from fedlit.partition import IID, Dirichlet, Field, Pathological, Size, partition, write_partition
from tests.preparation_sources import prepare, prostate_volumes

NUMBERS = list(range(5))
RULES = [IID(), Size(alpha=5), Dirichlet(alpha=5, bins=2), Pathological(shards=1), Field("scanner")]


@pytest.fixture(scope="module")
def prostates(tmp_path_factory):
    """Two hospitals whose five volumes are called alike, four slices each, as `fedlit prepare prostate` leaves them."""
    folder = tmp_path_factory.mktemp("prostates")
    source = prostate_volumes(folder / "source", {"BMC": NUMBERS, "I2CVB": NUMBERS}, shape=(4, 16, 12))
    words = ("--sites", "BMC,I2CVB", "--split", "seeded", "--workers", "1")
    assert prepare("prostate", source, folder / "out", *words) == 0
    rows = read(folder / "out" / "sites.csv")
    with (folder / "out" / "sites.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*rows[0], "scanner"])
        writer.writeheader()
        writer.writerows({**row, "scanner": "ab"[int(row["volume"][-1]) % 2]} for row in rows)
    return folder / "out"


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_volumes_of_one_name_at_two_hospitals_are_dealt_whole(prostates, rule, tmp_path):
    out = tmp_path / "dealt.csv"
    made = partition(prostates, rule, num_sites=None if isinstance(rule, Field) else 2)
    write_partition(made, out)
    sites = Manifest(str(prostates), labels={"prostate": 255}, image_size=16, file=str(out)).load()
    found = {
        case.id: case.numbers for site in sites for part in (site.train, site.val, site.test) for case in part.cases
    }
    assert found == {f"{site}/Case{number:02d}": (0, 1, 2, 3) for site in ("BMC", "I2CVB") for number in NUMBERS}
    before = {row["image"]: (row["site"], row["volume"], row["slice"]) for row in read(prostates / "sites.csv")}
    after = {row["image"]: (row["from_site"], row["volume"], row["slice"]) for row in read(out)}
    assert after == {image: (site, f"{site}/{volume}", number) for image, (site, volume, number) in before.items()}


def test_a_volume_counts_as_one_case_as_it_does_for_inspect(prostates, tmp_path):
    out = tmp_path / "dealt.csv"
    made = partition(prostates, IID(), num_sites=2)
    write_partition(made, out)
    told = {site: numbers["cases"] for site, numbers in made.note["sites"].items()}
    assert told == {"site1": 5, "site2": 5}
    assert told == {site.name: site.num_cases for site in inspect(prostates, file=str(out), num_workers=1).sites}
    splits = Counter()
    for numbers in made.note["sites"].values():
        splits.update({split: numbers[split] for split in ("train", "val", "test")})
    volumes = defaultdict(set)
    for row in read(out):
        volumes[row["split"]].add(row["volume"])
    assert splits == {split: len(names) for split, names in volumes.items()}


def test_a_dealt_set_can_be_dealt_again(prostates, tmp_path):
    first, second = tmp_path / "first.csv", tmp_path / "second.csv"
    write_partition(partition(prostates, IID(), num_sites=2), first)
    write_partition(partition(prostates, Pathological(), num_sites=2, file=str(first)), second)
    sites = Manifest(str(prostates), labels={"prostate": 255}, image_size=16, file=str(second)).load()
    cases = [case for site in sites for part in (site.train, site.val, site.test) for case in part.cases]
    assert len(cases) == 10 and all(case.numbers == (0, 1, 2, 3) for case in cases)
    assert {row["from_site"] for row in read(second)} == {"BMC", "I2CVB"}
