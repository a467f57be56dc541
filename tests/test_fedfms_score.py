"""FedFMS's score gives what its released code gave, and never stands where a Dice should."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from fedlit.data.pictures import Case
from fedlit.fedfms_score import CUTS, FEDFMS, fedfms_scores, levels
from fedlit.losses import masks
from fedlit.metrics import METRICS, Scoring
from fedlit.prediction import Global
from fedlit.record import CaseRow
from fedlit.report.tables import metric_name
from fedlit.result_table import result_table
from fedlit.summary import site_metrics, summarise
from tests.conftest import fedlit, make_federation, run_rounds

RELEASED = [
    {"iou_fedfms_thresholds": [0.209476478086171], "dice_fedfms_thresholds": [0.3459303081035614]},
    {"iou_fedfms_thresholds": [0.21661851655919612], "dice_fedfms_thresholds": [0.3554253578186035]},
    {
        "iou_fedfms_thresholds": [0.2394289435118858, 0.22011252178419052],
        "dice_fedfms_thresholds": [0.38592150807380676, 0.36021007895469664],
    },
    {"iou_fedfms_thresholds": [1.0], "dice_fedfms_thresholds": [1.0]},
]


def values(logits, target, names=FEDFMS, **scoring):
    """(class, name) -> value of one case: logits [slices, K, H, W], target bool of that shape."""
    found = levels(logits, target.shape[1])
    case = [planes.transpose(0, 1).numpy() if len(planes) > 1 else planes[0].numpy() for planes in (found, target)]
    return {(number, name): value for number, name, value in Scoring(**scoring).score(*case, names=names)}


def noise(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator), torch.rand(*shape, generator=generator) > 0.6


@pytest.mark.parametrize("number", range(4))
def test_the_released_score(number):
    golden = load_file(Path(__file__).parent / "golden" / "fedfms_metric.safetensors")
    logits, target = golden[f"{number}.logits"], golden[f"{number}.mask"].bool()
    slices = [values(logits[[place]], target[[place]]) for place in range(len(logits))]
    volume = values(logits, target)
    for name, of_class in RELEASED[number].items():
        for index, released in enumerate(of_class):
            assert np.mean([each[index, name] for each in slices]) == pytest.approx(released, abs=1e-7)
            assert volume[index, name] == pytest.approx(released, abs=1e-7)


def test_the_definition():
    logits, target = noise(1, 1, 9, 11)
    cuts = [logits > cut for cut in CUTS]
    dice = [2 * (mask & target).sum() / (mask.sum() + target.sum()) for mask in cuts]
    iou = [(mask & target).sum() / (mask | target).sum() for mask in cuts]
    found = values(logits, target)
    assert found[0, "dice_fedfms_thresholds"] == pytest.approx(np.mean(dice), abs=1e-5)
    assert found[0, "iou_fedfms_thresholds"] == pytest.approx(np.mean(iou), abs=1e-5)


def test_levels_count_the_cuts_below_a_logit_in_the_memory_of_a_mask():
    edge = torch.tensor([-1.0, 0.0, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, torch.inf, torch.nan])
    found = levels(edge.view(1, 1, 1, -1), 1)
    assert found.dtype == torch.uint8 and found.flatten().tolist() == [0, 0, 1, 1, 2, 3, 4, 5, 5, 6, 6, 0]
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        logits = noise(2, 3, 16, 16)[0].to(dtype)
        assert torch.equal(levels(logits, 3) > 0, masks(logits, 3))
        assert torch.equal(levels(logits, 3), levels(logits.float(), 3))


def test_other_metrics_are_those_of_the_masks():
    logits, target = noise(3, 2, 12, 12, seed=1)
    beside = values(logits, target, names=(*FEDFMS, *METRICS))
    case = [planes.transpose(0, 1).numpy() for planes in (masks(logits, 2), target)]
    alone = {(number, name): value for number, name, value in Scoring().score(*case, names=METRICS)}
    assert {key: beside[key] for key in alone} == alone and len(beside) == len(alone) + 4


def test_a_volume_is_the_mean_of_its_slices():
    logits, target = noise(4, 2, 8, 8, seed=2)
    target[1] = False
    logits[1] = -1
    whole, slices = values(logits, target), [values(logits[[place]], target[[place]]) for place in range(4)]
    assert slices[1] == dict.fromkeys(whole, 1.0)
    assert whole == pytest.approx({key: np.mean([each[key] for each in slices]) for key in whole})
    thin = [planes.transpose(0, 1).numpy() for planes in (levels(logits[:1], 2), target[:1])]
    one = Scoring().score(*thin, names=FEDFMS)
    assert {(number, name): value for number, name, value in one} == slices[0]


@pytest.mark.parametrize("rule", ["exclude", "perfect"])
def test_empty_masks_have_its_own_rule(rule):
    nothing, something = torch.zeros(1, 1, 4, 4, dtype=torch.bool), torch.ones(1, 1, 4, 4, dtype=torch.bool)
    names = ("dice_fedfms_thresholds", "dice")
    empty = values(torch.full((1, 1, 4, 4), -1.0), nothing, names, empty_both=rule)
    assert empty[0, "dice_fedfms_thresholds"] == 1
    assert math.isnan(empty[0, "dice"]) if rule == "exclude" else empty[0, "dice"] == 1
    for logits, target in ((-1.0, something), (1.0, nothing)):
        missed = values(torch.full((1, 1, 4, 4), logits), target, FEDFMS, empty_one="exclude")
        assert all(0 < value < 1e-4 for value in missed.values())


def test_it_differs_from_dice_where_a_network_is_unsure():
    target = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    unsure = values(torch.full((1, 1, 4, 4), 0.2), target, ("dice", "dice_fedfms_thresholds"))
    assert unsure[0, "dice"] == 1 and unsure[0, "dice_fedfms_thresholds"] == pytest.approx(0.2, abs=1e-4)


def test_dice_is_put_beside_it():
    scoring = Scoring(validation=("iou_fedfms_thresholds",), test=["iou", "dice_fedfms_thresholds", "dice"])
    assert scoring.validation == ("dice", "iou_fedfms_thresholds")
    assert scoring.test == ("iou", "dice_fedfms_thresholds", "dice")
    assert Scoring(test=["fedfms_iou", "fedfms_dice"]).test == ("dice", *FEDFMS[::-1]), "names that it had before"
    assert Scoring().test == METRICS and Scoring(test=("iou",)).test == ("iou",)


@pytest.mark.parametrize(
    ("prediction", "named"),
    [
        (np.ones((1, 4, 4), bool), r"prediction is bool \[1, 4, 4\]; use uint8 \[K, H, W\]"),
        (np.ones((1, 4, 4), np.float32), "use uint8"),
        (np.ones((1, 4, 5), np.uint8), "target is bool"),
    ],
)
def test_masks_do_not_do(prediction, named):
    with pytest.raises(ValueError, match=named):
        Scoring().score(prediction, np.ones((1, 4, 4), bool), names=FEDFMS)


def test_softmax_is_refused_when_a_config_is_checked(config_file, capsys):
    words = ["activation=softmax", "loss=dice_ce", "metrics.test=[dice,dice_fedfms_thresholds]"]
    assert fedlit("check", config_file, *words) == 2
    said = capsys.readouterr().err
    assert said.count("_fedfms_thresholds") == 1 and "metrics.test" in said
    assert "use activation=sigmoid or leave it out" in said
    assert fedlit("check", config_file, *words[:2], "metrics.test=[fedfms_dice]") == 2
    capsys.readouterr()
    assert fedlit("check", config_file, "metrics.test=[fedfms_dice]") == 0
    assert "metrics.test: fedfms_dice is called dice_fedfms_thresholds now" in "".join(capsys.readouterr())
    assert fedlit("check", config_file, words[2], "metrics.validation=[iou_fedfms_thresholds]") == 0
    assert fedlit("check", config_file, *words[:2], "metrics.test=[dice]") == 0
    assert fedlit("check", config_file, *words[:2], "metrics.test=${nowhere}") == 2
    with pytest.raises(
        ValueError, match=r"2 logits for 1 classes: dice_fedfms_thresholds and .*; use activation=sigmoid"
    ):
        levels(torch.zeros(1, 2, 4, 4), 1)


@pytest.mark.parametrize("as_volumes", [False, True])
def test_a_federation_scores_it(sites, as_volumes):
    """Of every case, what its logits give; and the other scores stay what they are."""
    if as_volumes:
        for site in sites:
            site.test.cases = (Case("v", tuple(range(len(site.test))), "p", None, True),)
    federation, server = make_federation(sites)
    server = run_rounds(federation, server, 1)
    options = {"scoring": Scoring(), "classes": ("disc",), "split": "test"}
    rows = federation.score({"global": Global()}, server, metrics=(*METRICS, *FEDFMS), **options).cases
    plain = federation.score({"global": Global()}, server, metrics=METRICS, **options).cases
    assert sorted(row for row in rows if row.metric not in FEDFMS) == sorted(plain)
    network = federation.fleet.workbench.network.eval()
    found = {(row.site, row.case, row.metric): row.value for row in rows}
    for site in sites:
        for case in site.test.cases:
            batch = site.test.batch(case.indices)
            with torch.inference_mode():
                expected = values(network(batch["image"]), batch["target"].bool())
            for (_, name), value in expected.items():
                assert found[site.name, case.id, name] == pytest.approx(value, abs=1e-6) and 0 < value < 1


def test_tables_name_it():
    cases = [CaseRow(1, "a", "x", "global", "test", "disc", name, 0.8125) for name in ("dice", *FEDFMS)]
    found = summarise(cases, site_metrics(cases, {"a": "member"}), round=1, model="global")
    console = Console(width=90, file=io.StringIO())
    result_table(found, console)
    heading, line = console.file.getvalue().splitlines()[:2]
    assert heading.split()[-2:] == list(FEDFMS) and line.split()[-2:] == ["0.812", "0.812"]
    assert [metric_name(name) for name in (*FEDFMS, "hd95_mm")] == ["FedFMS Dice", "FedFMS IoU", "HD95 (mm)"]


def test_views_do():
    found, target = np.random.default_rng(0).integers(0, 7, (2, 3, 5, 6), np.uint8), np.ones((2, 3, 5, 6), bool)
    assert fedfms_scores(found.transpose(1, 0, 2, 3)[0], target[:, 0]) == fedfms_scores(
        found[:, 0].copy(), target[:, 0]
    )
