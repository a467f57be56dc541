"""Laws of fedlit/partition: every case once, whole patients, the same for the same seed, skew where it is asked for."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from fedlit.data import Manifest
from fedlit.errors import BadInput
from fedlit.partition import IID, Dirichlet, Field, Pathological, Patient, Size, partition, write_partition
from tests.conftest import fedlit

RULES = [
    IID(),
    Size(),
    Dirichlet(),
    Dirichlet(of="brightness", alpha=5, bins=3),
    Pathological(),
    Pathological(shards=1),
]
COLUMNS = ["site", "image", "mask", "split", "group", "scanner", "kvp"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """60 patients of two hospitals, every third with two pictures; foreground, scanner and kV grow with the number."""
    root = tmp_path_factory.mktemp("pool")
    noise, rows = np.random.default_rng(0), []
    for number in range(60):
        split = ("test", "val", "train", "train", "train")[number % 5]
        for view in range(1 + (number % 3 == 0)):
            name = f"{number:02d}_{view}.png"
            Image.fromarray(noise.integers(0, 256, (12, 12), np.uint8)).save(root / name)
            mask = np.zeros((12, 12), np.uint8)
            mask.reshape(-1)[: number + 1] = 255
            Image.fromarray(mask).save(root / f"mask_{name}")
            scanner = "Siemens, 3T" if number < 20 or (number == 30 and view == 0) else "GE"
            rows.append(["ab"[number % 2], name, f"mask_{name}", split, f"p{number // 2}", scanner, str(60 + number)])
    write(root / "sites.csv", rows)
    return root


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([columns, *rows])


def read(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def deal(root, rule, tmp_path, name="dealt.csv", **options):
    out = tmp_path / name
    write_partition(partition(root, rule, **options), out)
    return read(out)


def foreground(rows):
    """Mean number of the patients' pictures, by which the foreground grows, of every site."""
    found = defaultdict(list)
    for row in rows:
        found[row["site"]].append(int(row["kvp"]) - 60)
    return {site: np.mean(values) for site, values in found.items()}


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("seed", [0, 7])
def test_every_case_is_there_once_and_patients_stay_whole_in_their_split(pool, rule, seed, tmp_path):
    before, after = read(pool / "sites.csv"), deal(pool, rule, tmp_path, num_sites=4, seed=seed)
    kept = ("image", "mask", "split", "scanner", "kvp")
    assert sorted([row[key] for key in kept] for row in before) == sorted([row[key] for key in kept] for row in after)
    assert {row["site"] for row in after} == {"site1", "site2", "site3", "site4"}
    homes = defaultdict(set)
    for row in after:
        homes[row["group"]].add((row["site"], row["split"]))
        assert row["group"].startswith(f"{row['from_site']}/")
    assert len(homes) == 60 and all(len(found) == 1 for found in homes.values())
    assert {row["site"] for row in after if row["split"] == "train"} == {row["site"] for row in after}


@pytest.mark.parametrize("rule", [*RULES, Field("scanner"), Field("kvp")], ids=str)
def test_the_same_seed_gives_the_same_file_whatever_the_order_of_rows(pool, rule, tmp_path):
    number = None if rule == Field("scanner") else 3
    first = deal(pool, rule, tmp_path, "first.csv", num_sites=number)
    with (pool / "sites.csv").open(newline="") as stream:
        _, *rows = csv.reader(stream)
    random.Random(1).shuffle(rows)
    write(pool / "shuffled.csv", rows)
    second = deal(pool, rule, tmp_path, "second.csv", num_sites=number, file="shuffled.csv")
    assert (tmp_path / "first.csv").read_bytes() == (tmp_path / "second.csv").read_bytes()
    assert first == second
    if not isinstance(rule, Field):
        assert first != deal(pool, rule, tmp_path, "other.csv", num_sites=number, seed=1)


def test_iid_sites_have_as_many_patients_of_every_split(pool, tmp_path):
    patients = defaultdict(set)
    for row in deal(pool, IID(), tmp_path, num_sites=4):
        patients[row["site"], row["split"]].add(row["group"])
    for split in ("train", "val", "test"):
        counts = [len(patients[f"site{number}", split]) for number in range(1, 5)]
        assert max(counts) - min(counts) <= 1


def test_a_small_alpha_separates_and_a_large_one_does_not(pool, tmp_path):
    def spread(rule, name):
        return np.std(list(foreground(deal(pool, rule, tmp_path, name, num_sites=3)).values()))

    apart = [spread(Dirichlet(alpha=alpha), f"{alpha}.csv") for alpha in (0.1, 1000)]
    assert apart[0] > 3 * apart[1]
    assert spread(Pathological(shards=1), "path.csv") > apart[1]
    sizes = Counter(row["site"] for row in deal(pool, Size(alpha=0.2), tmp_path, "size.csv", num_sites=3))
    even = Counter(row["site"] for row in deal(pool, Size(alpha=1e4), tmp_path, "even.csv", num_sites=3))
    assert max(sizes.values()) > 2 * min(sizes.values())
    assert max(even.values()) < 1.3 * min(even.values())


def test_pathological_sites_hold_their_shards_and_no_more():
    patients = [Patient(f"a/{number}", 1, "train", statistic=number) for number in range(40)]
    dealt = Pathological(shards=2).deal(patients, 5, seed=0)
    shards = defaultdict(set)
    for number in range(40):
        shards[dealt[f"a/{number}"]].add(number // 4)
    assert sorted(len(found) for found in shards.values()) == [2] * 5
    assert sorted(shard for found in shards.values() for shard in found) == list(range(10))


def test_shares_are_kept_to_within_a_patient():
    from fedlit.partition.shares import _spread

    patients = [Patient(f"a/{number}", 1) for number in range(50)]
    for start in (0.0, 0.3, 0.999):
        counts = Counter(_spread(patients, {"x": 0.1, "y": 0.55, "z": 0.35}, start).values())
        assert all(abs(counts[site] - 50 * share) <= 1 for site, share in (("x", 0.1), ("y", 0.55), ("z", 0.35)))


def test_a_column_names_the_sites_and_a_divided_patient_stays_whole(pool, tmp_path):
    made = partition(pool, Field("scanner"))
    assert set(made.note["sites"]) == {"Siemens_3T", "GE"}
    assert made.note["patients_with_several_values"] == ["a/p15"]
    rows = deal(pool, Field("scanner"), tmp_path)
    assert len({row["site"] for row in rows if row["group"] == "a/p15"}) == 1
    ranges = foreground(deal(pool, Field("kvp"), tmp_path, "kvp.csv", num_sites=3))
    assert ranges["site1"] < 20 <= ranges["site2"] < 40 <= ranges["site3"]


def test_the_note_says_how_and_the_manifest_loads(pool, tmp_path):
    out = tmp_path / "skew.csv"
    made = partition(pool, Dirichlet(alpha=1.0), num_sites=3, seed=5)
    note = json.loads(write_partition(made, out).read_text())
    assert note["rule"] == {"name": "Dirichlet", "of": "foreground", "alpha": 1.0, "bins": 10}
    assert (note["seed"], note["num_sites"], note["source"]["file"]) == (5, 3, "sites.csv")
    assert sum(site["patients"] for site in note["sites"].values()) == 60
    sites = Manifest(str(pool), labels={"disc": 255}, file=str(out)).load()
    assert {site.name: site.num_samples for site in sites} == {
        name: found["train"] for name, found in note["sites"].items()
    }
    again = partition(pool, IID(), num_sites=2, file=str(out))
    assert "from_site" in again.columns and {row[again.columns.index("from_site")] for row in again.rows} == {"a", "b"}


def test_without_a_split_column_a_run_divides_the_new_sites(pool, tmp_path):
    rows = [[row[key] for key in COLUMNS if key != "split"] for row in read(pool / "sites.csv")]
    write(pool / "unsplit.csv", rows, [name for name in COLUMNS if name != "split"])
    out = tmp_path / "unsplit.csv"
    write_partition(partition(pool, Dirichlet(), num_sites=3, file="unsplit.csv"), out)
    assert "split" not in read(out)[0]
    sites = Manifest(str(pool), labels={"disc": 255}, file=str(out)).load()
    assert len(sites) == 3 and all(site.num_samples for site in sites)


@pytest.mark.parametrize(
    "rule, number, words",
    [
        (IID(), 1, "sites=1; needs 2 or more"),
        (IID(), 37, "36 training patients cannot be dealt to 37 sites; ask for at most 36"),
        (Pathological(shards=10), 4, "36 training patients cannot be cut into 40 shards"),
        (Dirichlet(alpha=1e-3, bins=2), 30, "ask for a larger alpha or fewer sites"),
        (Field("nothing"), None, "no column 'nothing'; it has site, image, mask, split, group, scanner, kvp"),
        (Field("scanner"), 3, "not numbers alone"),
        (Field("split"), None, None),
    ],
    ids=str,
)
def test_what_cannot_be_dealt_is_said(pool, rule, number, words):
    if words is None:
        assert set(partition(pool, rule).note["sites"]) == {"test", "train", "val"}
        return
    with pytest.raises(BadInput) as caught:
        partition(pool, rule, num_sites=number)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "make", [lambda: Dirichlet(alpha=0), lambda: Size(alpha=float("inf")), lambda: Dirichlet(of="age"),
             lambda: Dirichlet(bins=1), lambda: Pathological(shards=0), lambda: Field(" ")]
)  # fmt: skip
def test_a_rule_refuses_wrong_numbers(make):
    with pytest.raises(ValueError):
        make()


def test_a_divided_patient_or_a_shared_picture_is_refused(pool, tmp_path):
    rows = [[row[key] for key in COLUMNS] for row in read(pool / "sites.csv")]
    divided = [list(row) for row in rows]
    divided[0][3] = "train"  # its patient's other picture is a test picture
    write(pool / "divided.csv", divided)
    with pytest.raises(BadInput, match="patient 'p0' of site 'a' is in"):
        partition(pool, IID(), num_sites=2, file="divided.csv")
    rows[-1][1] = rows[0][1]
    write(pool / "shared.csv", rows)
    with pytest.raises(BadInput, match=r"the same picture is 00_0.png .patient p0 of a, line 2. and"):
        partition(pool, IID(), num_sites=2, file="shared.csv")


def test_the_command_writes_tells_and_does_not_overwrite(pool, tmp_path, capsys):
    out = tmp_path / "even.csv"
    assert fedlit("partition", pool, out, "--by", "iid", "--sites", 3) == 0
    said = capsys.readouterr().out
    assert "site3" in said and f"data.file={out}" in said.replace("\n", "")
    before = out.read_bytes()
    assert fedlit("partition", pool, out, "--by", "size", "--sites", 3) == 2
    assert "exists already" in capsys.readouterr().err and out.read_bytes() == before
    assert fedlit("partition", pool, out, "--by", "iid", "--sites", 3, "--overwrite") == 0
    assert out.read_bytes() == before
    capsys.readouterr()
    for words, message in (
        (("sites.csv", "--by", "iid", "--sites", 2, "--overwrite"), "is the pooled manifest itself"),
        (("x.csv", "--by", "iid"), "--sites is missing"),
        (("x.csv", "--by", "iid", "--sites", 2, "--alpha", 1), "--by iid does not know --alpha; it takes no option"),
        (("x.csv", "--by", "field"), "--by field needs --field"),
        (("x.csv", "--by", "dirichlet", "--sites", 2, "--of", "age"), "of='age'; allowed are foreground, brightness"),
        (("x.txt", "--by", "iid", "--sites", 2), "a name that ends in .csv"),
        (("nowhere/x.csv", "--by", "iid", "--sites", 2), "cannot be written"),
    ):
        assert fedlit("partition", pool, pool / words[0], *words[1:]) == 2
        assert message in capsys.readouterr().err
    assert not (pool / "x.csv").exists()
