"""Patients dealt anew into their own site's splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from fedlit.data import Manifest
from fedlit.data.manifest import Row, resplit
from tests.conftest import fedlit, write_manifest

SPLIT_OF = ["test"] * 2 + ["val"] + ["train"] * 6


def rows_of(*sites: str) -> list[Row]:
    """Nine patients a site, with one picture or two."""
    return [
        Row(
            site, Path(f"{site}{patient}{number}"), Path("m"), split, f"p{patient}", None, 1, f"{site}{patient}{number}"
        )
        for site in sites
        for patient, split in enumerate(SPLIT_OF)
        for number in range(1 + patient % 2)
    ]


def test_each_split_of_a_site_keeps_its_number_of_patients_and_patients_stay_whole():
    rows = rows_of("a", "b")
    found = resplit(rows, seed=0)
    assert [row.name for row in found] == [row.name for row in rows]
    for site in "ab":
        splits = {}
        for row in found:
            if row.site == site:
                splits.setdefault(row.group, set()).add(row.split)
        assert all(len(of_patient) == 1 for of_patient in splits.values())
        assert Counter(min(of_patient) for of_patient in splits.values()) == Counter(SPLIT_OF)


def test_it_depends_on_the_seed_and_on_the_site_and_not_on_the_order():
    rows = rows_of("a", "b")
    split_of = {row.name: row.split for row in resplit(rows, seed=0)}
    assert split_of == {row.name: row.split for row in resplit(rows[::-1], seed=0)}
    assert split_of == {row.name: row.split for site in "ab" for row in resplit(rows_of(site), seed=0)}
    assert split_of != {row.name: row.split for row in resplit(rows, seed=1)}
    assert [split_of[f"a{patient}0"] for patient in range(9)] != [split_of[f"b{patient}0"] for patient in range(9)]


def test_five_seeds_test_most_patients():
    tested = {row.name for seed in range(5) for row in resplit(rows_of("a"), seed=seed) if row.split == "test"}
    assert len(tested) > len({row.name for row in rows_of("a") if row.split == "test"}) * 2


def test_a_patient_of_two_splits_is_whole_afterwards():
    torn = [*rows_of("a"), Row("a", Path("x"), Path("m"), "train", "p0", None, 2, "x")]
    assert len({row.split for row in resplit(torn, seed=0) if row.group == "p0"}) == 1


def test_a_manifest_is_split_anew_and_fingerprinted_so(tmp_path):
    write_manifest(tmp_path, {"a": (6, 2, 2), "b": (5, 1, 2)})
    made = {seed: Manifest(str(tmp_path), {"disc": 255}, resplit_seed=seed) for seed in (None, 0, 2)}
    sites = {seed: source.load(unseen_sites=["b"]) for seed, source in made.items()}
    tests = {seed: [case.id for case in loaded[0].test.cases] for seed, loaded in sites.items()}
    assert len({tuple(cases) for cases in tests.values()}) == 3 and all(len(cases) == 2 for cases in tests.values())
    assert all(len(loaded[1].test.cases) == 8 for loaded in sites.values())  # an unseen site is tested whole
    assert len({source.fingerprint() for source in made.values()}) == 3


def test_it_is_a_key_of_data(config_file):
    assert fedlit("check", config_file, "data.resplit_seed=3") == 0
    assert fedlit("check", config_file, "data.resplit_seed=x") == 2
