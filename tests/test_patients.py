"""Which test cases are of one patient: what a run notes, and what is read of it."""

from __future__ import annotations

import pytest

from fedlit.data.pictures import Pictures
from fedlit.errors import BadInput
from fedlit.patients import read_patients, write_patients
from tests.conftest import discs, make_site


def of_patients(name, *groups):
    site = make_site(name, (2, 1, len(groups)))
    test = Pictures.from_arrays(*discs(len(groups), 0), ids=[f"c{n}" for n in range(len(groups))], groups=groups)
    return type(site)(site.name, site.role, site.train, site.val, test, seed_name=site.name)


def test_test_cases_are_noted_with_their_patient_and_further_sites_beside_them(tmp_path):
    write_patients(tmp_path, {"a, b": of_patients("a, b", "p", 'q"x', "p")})
    first = {("a, b", "c0"): "p", ("a, b", "c1"): 'q"x', ("a, b", "c2"): "p"}
    assert read_patients(tmp_path) == first
    write_patients(tmp_path, {"u": of_patients("u", "p")})
    assert read_patients(tmp_path) == {**first, ("u", "c0"): "p"}


def test_earlier_runs_noted_none_and_damage_is_refused(tmp_path):
    assert read_patients(tmp_path) is None
    (tmp_path / "patients.csv").write_text("site,case,patient\na,b\n")
    with pytest.raises(BadInput, match=r"patients\.csv is damaged.*`fedlit evaluate` writes it again"):
        read_patients(tmp_path)
