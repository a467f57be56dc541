"""Laws of what the server does before the first round."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from fedlit.beginning import Beginning
from fedlit.checkpoint import read_state
from fedlit.weights import load
from tests.conftest import CONFIG, fedlit, write_manifest

CENTRE = "{_target_: fedlit.teachers.PriorBoxes, boxes: {disc: [[0.2, 0.2, 0.8, 0.8]]}}"
ELLIPSES = f"start.teacher={{_target_: fedlit.teachers.Ellipses, prompts: {CENTRE}}}"
TRUE_MASKS = "start.labelled=1.0"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_manifest(tmp_path_factory.mktemp("server"), {"a": (5, 2, 2), "b": (4, 2, 2), "s": (8, 3, 2)})


@pytest.fixture
def experiment(tmp_path, data):
    path = tmp_path / "experiment.yaml"
    path.write_text(f"{CONFIG}data.root: {data}\nserver_site: s\nrun_dir: {tmp_path / 'run'}\n")
    return path


def run(experiment, name, *words, rounds=1):
    """The run directory of a run that went well."""
    folder = experiment.parent / name
    assert fedlit("run", experiment, f"run_dir={folder}", f"num_rounds={rounds}", *words) == 0
    return folder


def initial(folder):
    return load(folder / "initial.safetensors")[0]


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(value, right[name]) for name, value in left.items())


@pytest.mark.parametrize("start", ["supervised", "denoising", "distillation"])
def test_no_pass_is_the_networks_own_first_state(experiment, start):
    words = [f"start={start}", "start.num_rounds=0", *([ELLIPSES] if start == "distillation" else [])]
    assert (
        summary(run(experiment, "none"))["weights_sha256"] == summary(run(experiment, "zero", *words))["weights_sha256"]
    )


@pytest.mark.parametrize("algorithm", ["local", "fedbn", "fedper", "lgfedavg"])
def test_what_stays_at_a_site_begins_with_what_was_taught(experiment, algorithm):
    """By steps too small to be seen a site is where it began; also where the run was stopped before."""
    words = (f"algorithm={algorithm}", "start=supervised", "start.num_rounds=3", "start.lr=0.05", "lr=1e-12")
    folder = run(experiment, "taught", *words)
    assert fedlit("run", experiment, f"run_dir={folder}", "num_rounds=2", *words) == 0
    taught = initial(folder)
    memories = read_state(folder / "checkpoint", "round-00002.json").memories
    assert memories.keys() == {"a", "b"}
    for memory in memories.values():
        own = memory["personal" if algorithm == "local" else "kept"]
        assert own and all(torch.allclose(value, taught[name], atol=1e-6) for name, value in own.items())


@pytest.mark.parametrize(
    "augment",
    ["[]", "[{_target_: albumentations.HorizontalFlip}, {_target_: albumentations.RandomBrightnessContrast}]"],
)
def test_a_teacher_that_returns_the_true_masks_is_supervision(experiment, augment):
    words = [f"data.augment={augment}", "start.num_rounds=3", "start.patience=2"]
    taught = run(experiment, "taught", "start=distillation", ELLIPSES, TRUE_MASKS, *words)
    supervised = run(experiment, "supervised", "start=supervised", *words)
    assert same(initial(taught), initial(supervised))
    assert not same(initial(taught), initial(run(experiment, "ellipses", "start=distillation", ELLIPSES, *words)))


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory):
    """A small SAM that has learnt nothing, as an official file."""
    from fedlit.networks.sam_architecture import SIZES, build_sam

    path = tmp_path_factory.mktemp("sam") / "sam.pth"
    torch.manual_seed(1)
    torch.save(build_sam(SIZES["micro"]).state_dict(), path)
    return path


def by_sam(sam_file, *words):
    teacher = f"{{_target_: fedlit.teachers.SAMTeacher, checkpoint: {sam_file}, prompts: {CENTRE}}}"
    return ["start=distillation", f"start.teacher={teacher}", "start.least_confidence=0", *words]


@pytest.mark.parametrize("start", ["supervised", "distillation", "denoising", "sam with features"])
def test_stopped_inside_it_goes_on_to_the_same_bits(experiment, start, monkeypatch, sam_file):
    words = [f"start={start}", *([ELLIPSES] if start == "distillation" else [])]
    if start == "sam with features":
        words = by_sam(sam_file, "start.features=0.1")
    words.append("start.num_rounds=4")
    whole = run(experiment, "whole", *words, rounds=2)
    say, said = Beginning._passes, []

    def until_the_second_pass(self, federation, *rest):
        def stop(round, *_):
            said.append(round)
            if round == 3:
                raise KeyboardInterrupt

        monkeypatch.setattr(federation.fleet.watch, "round_started", stop)
        return say(self, federation, *rest)

    monkeypatch.setattr(Beginning, "_passes", until_the_second_pass)
    folder = experiment.parent / "parts"
    assert fedlit("run", experiment, f"run_dir={folder}", "num_rounds=2", *words) == 130
    assert said == [1, 2, 3] and not (folder / "initial.safetensors").exists()
    monkeypatch.setattr(Beginning, "_passes", say)
    assert fedlit("warm-start", experiment, f"run_dir={folder}", "num_rounds=2", *words) == 0
    assert same(initial(folder), initial(whole))
    assert fedlit("run", experiment, f"run_dir={folder}", "num_rounds=2", *words) == 0
    assert summary(folder)["weights_sha256"] == summary(whole)["weights_sha256"]


def test_round_0_is_scored_and_nothing_of_the_teacher_is_sent(experiment):
    folder = run(experiment, "taught", "start=distillation", ELLIPSES, "start.num_rounds=2")
    rounds = {line.split(",")[0] for line in (folder / "cases.csv").read_text().splitlines()[1:]}
    assert rounds == {"0", "1"}
    assert summary(folder)["bytes_up"] == summary(run(experiment, "none"))["bytes_up"]
    told = summary(folder)["start"]
    assert (told["kind"], told["pictures"], told["left_out"], told["passes"]) == ("Distillation", 8, 0, 2)
    assert summary(run(experiment, "none2"))["start"] is None


def test_it_ends_where_held_out_pictures_get_no_better(experiment):
    folder = run(experiment, "patient", "start=supervised", "start.num_rounds=30", "start.patience=1", "start.lr=0.3")
    told = summary(folder)["start"]
    assert told["passes"] == told["kept_pass"] + 1 < 30


def test_a_given_file_is_where_it_begins(experiment):
    first = run(experiment, "first", "start=supervised", "start.num_rounds=2")
    given = run(experiment, "given", "start=given", f"start.path={first / 'initial.safetensors'}")
    assert same(initial(first), initial(given))
    assert summary(first)["weights_sha256"] == summary(given)["weights_sha256"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start=distillation"], "start.teacher.prompts: boxes: there is none for the class disc; known are lung"),
        (["start=supervised", "server_site=null"], "start: the data name no server site; set server_site"),
        (
            ["start=distillation", "start.teacher.prompts.boxes={disc: [[0.5, 0.5, 1.2, 1]]}"],
            "is outside of the picture",
        ),
        (["start=distillation", "start.teacher.prompts.boxes=knee"], "no such anatomy is shipped; use chest_xray"),
        (["start=distillation", ELLIPSES, "start.temperature=0"], "temperature=0 is not allowed"),
        (["start=given", "start.path=nothing.safetensors"], "nothing.safetensors: no such file"),
        (["start=supervised", "start.num_rounds=-1"], "num_rounds=-1 is not allowed"),
        (
            ["start={_target_: fedlit.starts.Distillation, teacher: {shape: round}}"],
            "SAMTeacher has no such argument",
        ),
    ],
)
def test_bad_input_is_one_clear_error_before_anything_is_trained(experiment, words, message, capsys):
    assert fedlit("run", experiment, "num_rounds=1", *words) == 2
    said = capsys.readouterr()
    assert message in said.err and "round 1" not in said.out


def test_pictures_count_by_confidence_where_that_is_asked_for(experiment, sam_file):
    words = ["start.num_rounds=1"]
    plain = run(experiment, "plain", *by_sam(sam_file, *words))
    weighed = run(experiment, "weighed", *by_sam(sam_file, "start.weigh=true", *words))
    assert not same(initial(plain), initial(weighed))
    alike = [ELLIPSES, "start=distillation", *words]  # an ellipse is always sure
    assert same(initial(run(experiment, "e", *alike)), initial(run(experiment, "w", "start.weigh=true", *alike)))


def test_features_are_matched_where_they_are_asked_for(experiment, sam_file):
    words = ["start.num_rounds=2", "start.patience=2"]
    plain = run(experiment, "plain", *by_sam(sam_file, *words))
    matched = run(experiment, "matched", *by_sam(sam_file, "start.features=1", *words))
    assert not same(initial(plain), initial(matched)) and initial(plain).keys() == initial(matched).keys()


def test_a_student_like_its_teacher_begins_with_its_weights(experiment, sam_file):
    words = ["network=sam", "network.size=micro", "lr=0.001"]
    text = experiment.read_text().replace("network.base_channels: 4\nnetwork.depth: 2\n", "")
    experiment.write_text(text)
    taught = run(experiment, "taught", *by_sam(sam_file, "start.num_rounds=0", *words))
    weights = torch.load(sam_file, weights_only=True)
    assert all(torch.equal(value, weights[name]) for name, value in initial(taught).items())
    as_they_are = f"start.teacher.checkpoint={sam_file}"
    given = run(experiment, "weights", "start=teacher_weights", as_they_are, *words)
    assert same(initial(given), initial(taught))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["start.teacher.checkpoint=none.pth"], "none.pth"),
        (["start.least_confidence=1"], "the teacher is sure of none of the 8 pictures of s"),
        (["start.features=1", "start.bottleneck=neck"], "the network has no such module"),
        (["start.teacher.size=vit_b"], "this file is micro, not vit_b"),
        (["start.teacher.size=vit_b", "start.teacher.checkpoint=null"], "needs its checkpoint; `fedlit weights`"),
    ],
)
def test_a_teacher_that_cannot_teach_is_one_clear_error(experiment, sam_file, words, message, capsys):
    assert fedlit("run", experiment, *by_sam(sam_file), *words) == 2
    assert message in capsys.readouterr().err


def test_there_is_nothing_to_warm_start_without_a_start(experiment, capsys):
    assert fedlit("warm-start", experiment) == 2
    assert "start is not set" in capsys.readouterr().err


def test_a_given_file_of_another_network_is_refused(experiment, capsys, tmp_path):
    from fedlit.weights import save

    save(tmp_path / "other.safetensors", {"head.bias": torch.zeros(9)})
    assert fedlit("run", experiment, "start=given", f"start.path={tmp_path / 'other.safetensors'}") == 2
    assert "does not fit the network" in capsys.readouterr().err


# Teachers


def pictures(count=3):
    from fedlit.data.pictures import Pictures
    from tests.conftest import discs

    return Pictures.from_arrays(*discs(count, seed=3), np.array([[0, 1]]), name="s")


def test_what_is_cached_is_what_was_computed_rounded_to_bf16(tmp_path):
    from fedlit.seeding import address
    from fedlit.teachers import Ellipses, MaskBoxes
    from fedlit.teachers.lessons import _answer, answers, own_masks, taught

    teacher, site, device = Ellipses(MaskBoxes(jitter=0.2)), pictures(), torch.device("cpu")
    files = taught(teacher, site, device=device, seed=5, root=tmp_path)
    assert taught(teacher, site, device=device, seed=5, root=tmp_path) == files
    for index, file in enumerate(files):
        asked = teacher.prompts((32, 32), own_masks(site, index), address(5, "prompts", index))
        fresh = _answer(teacher, teacher.open(device), asked, None, site.images([index]))[0]
        shares, confidence = answers(file, (32, 32))
        assert torch.equal(shares, fresh[:, :-1].bfloat16().float().view(1, 32, 32)) and confidence.tolist() == [1.0]
    assert not set(files) & set(taught(teacher, site, device=device, seed=6, root=tmp_path))


def test_an_ellipse_fills_its_box():
    from fedlit.teachers import Ellipses
    from fedlit.teachers.prompts import Prompt

    found, _ = Ellipses().open(torch.device("cpu")).masks(torch.zeros(1, 1, 64, 48), [Prompt((8, 16, 40, 48))])
    rows, columns = np.nonzero(found[0].numpy() > 0.5)
    assert (rows.min(), rows.max() + 1, columns.min(), columns.max() + 1) == (16, 48, 8, 40)
    assert found[0].sum().item() == pytest.approx(np.pi * 16 * 16, rel=0.02)


def test_a_mean_lung_leans_to_the_middle_of_the_chest_and_fills_its_box():
    from fedlit.teachers import MeanLungs
    from fedlit.teachers.prompts import Prompt

    boxes = [Prompt((8, 8, 56, 120)), Prompt((72, 8, 120, 120))]
    found, _ = MeanLungs().open(torch.device("cpu")).masks(torch.zeros(1, 1, 128, 128), boxes)
    for plane, prompt in zip(found, boxes, strict=True):
        left, top, right, bottom = map(int, prompt.box)
        assert 0.4 < plane[top:bottom, left:right].mean() < 0.8 and plane[:, : left - 1].sum() == 0
    top_of = [plane[8:40].sum(0) for plane in found]  # a lung's apex is nearer to the spine than its base
    columns = torch.arange(128.0)
    middle = [(part * columns).sum() / part.sum() for part in top_of]
    assert middle[0] > 32 and middle[1] < 96


def test_boxes_of_masks_hold_every_object_and_jitter_moves_them():
    from fedlit.teachers import MaskBoxes

    mask = np.zeros((1, 40, 40), bool)
    mask[0, 5:15, 3:9] = mask[0, 20:38, 22:30] = True
    (found,) = MaskBoxes(jitter=0)((40, 40), mask, 0)
    assert [prompt.box for prompt in found] == [(3, 5, 9, 15), (22, 20, 30, 38)]
    (moved,) = MaskBoxes(jitter=0.3)((40, 40), mask, 0)
    for prompt in moved:
        left, top, right, bottom = prompt.box
        assert 0 <= left < right <= 40 and 0 <= top < bottom <= 40
    assert moved != found and moved == MaskBoxes(jitter=0.3)((40, 40), mask, 0)[0]
    assert MaskBoxes(jitter=0.3)((40, 40), mask, 1)[0] != moved
    assert MaskBoxes()((40, 40), np.zeros((1, 40, 40), bool), 0) == [[]]


def test_points_of_masks_lie_inside():
    from fedlit.teachers import MaskPoints

    mask = np.zeros((1, 40, 40), bool)
    mask[0, 5:15, 3:9] = True
    for seed in range(20):
        ((prompt,),) = MaskPoints(number=3)((40, 40), mask, seed)
        assert prompt.labels == (1, 1, 1) and all(mask[0, int(y), int(x)] for x, y in prompt.points)


@pytest.mark.parametrize("flips", [False, True])
def test_a_sam_teacher_takes_the_mask_it_trusts_most_and_flips_mirror_its_prompts(flips):
    from fedlit.networks import SAM, DecoderOnly
    from fedlit.networks.prompting import prompted
    from fedlit.teachers.prompts import Prompt
    from fedlit.teachers.teacher import Asked

    torch.manual_seed(0)
    sam = SAM(1, size="micro", tuning=DecoderOnly()).eval()
    image, box = torch.rand(1, 1, 64, 64), (10.0, 12.0, 40.0, 50.0)
    found, quality = Asked(sam, flips).masks(image, [Prompt(box), Prompt(None, ((20.0, 30.0),), (1,))])
    assert found.shape == (2, 64, 64) and found.min() >= 0 and found.max() <= 1 and quality.shape == (2,)
    expected = prompted(sam, image, boxes=torch.tensor([[box]]))
    best = expected.quality[0, 0, 1:].argmax() + 1
    alone = expected.logits[0, 0, best].sigmoid()
    if flips:
        turned = prompted(sam, image.flip(-1), boxes=torch.tensor([[(24.0, 12.0, 54.0, 50.0)]]))
        also = turned.quality[0, 0, 1:].argmax() + 1
        alone = (alone + turned.logits[0, 0, also].sigmoid().flip(-1)) / 2
    torch.testing.assert_close(found[0], alone, atol=1e-5, rtol=1e-4)


def test_of_all_that_is_found_everywhere_a_rule_keeps_the_surest_objects_once():
    from fedlit.teachers import Everywhere, Rule

    def answer(rows, columns, sure):
        mask = torch.zeros(20, 20)
        mask[rows, columns] = 1
        return mask, torch.tensor(sure)

    left = answer(slice(4, 14), slice(1, 7), 0.8)
    again = answer(slice(4, 14), slice(1, 8), 0.9)
    right = answer(slice(4, 14), slice(12, 18), 0.7)
    whole = answer(slice(0, 20), slice(0, 20), 1.0)
    speck = answer(slice(0, 1), slice(0, 1), 1.0)
    asked = Everywhere({"lung": Rule(area=(0.05, 0.4), count=2)}, grid=3).for_classes(["lung"])
    assert [float(sure) for _, sure in asked.choose(0, [left, again, right, whole, speck])] == pytest.approx([0.9, 0.7])
    on_the_left = Everywhere({"lung": Rule(area=(0.05, 0.4), centre=(0, 0, 0.5, 1), count=2)}).for_classes(["lung"])
    assert [float(sure) for _, sure in on_the_left.choose(0, [left, again, right])] == pytest.approx([0.9])
    (points,) = asked((20, 40), None, 0)
    assert len(points) == 9 and points[0].points[0] == pytest.approx((40 / 6, 20 / 6))
    with pytest.raises(ValueError, match="rules: there is none for the class heart; known are lung"):
        asked.for_classes(["heart"])
