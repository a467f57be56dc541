"""The command line: what it prints, writes and returns, with good input and bad."""

import json
import subprocess
import sys
from shutil import copy

import numpy as np
import pytest
import torch
from PIL import Image

from fedlit.checkpoint import kept_name, read_state
from fedlit.finished import open_model
from fedlit.record import Record
from tests.conftest import REAL_DATA, discs, fedlit, write_manifest


@pytest.fixture(scope="module")
def finished(tmp_path_factory, disc_data):
    """A short finished run of local training, so that every member has a personal model."""
    from tests.conftest import CONFIG

    folder = tmp_path_factory.mktemp("finished")
    (folder / "discs.yaml").write_text(
        f"{CONFIG}data.root: {disc_data}\nunseen_sites: [u]\nrun_dir: {folder / 'run'}\n"
    )
    assert fedlit("run", folder / "discs.yaml", "num_rounds=6", "lr=0.02") == 0
    assert fedlit("run", folder / "discs.yaml", "algorithm=local", f"run_dir={folder / 'local'}", "num_rounds=2") == 0
    return folder


@pytest.fixture
def pictures(tmp_path):
    images, masks = discs(3, seed=99, size=32)
    paths = []
    for number, image in enumerate(images[..., 0]):
        paths.append(tmp_path / f"patient{number}.png")
        Image.fromarray(image).resize((50, 40)).save(paths[-1])
    return paths, masks


def test_help_comes_in_under_a_second_without_heavy_imports():
    code = "import sys, fedlit.__main__ as m\ntry: m.main(['--help'])\nexcept SystemExit as end: print(end.code, {})"
    command = [sys.executable, "-c", code.format("'torch' in sys.modules")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 False"
    for command in ("run", "check", "evaluate", "predict", "export"):
        assert f"\n  {command} " in done.stdout


@pytest.mark.parametrize("command", ["run", "check", "evaluate", "predict", "export"])
def test_every_command_explains_itself(command, capsys):
    assert fedlit(command, "--help") == 0
    assert "Usage: fedlit" in capsys.readouterr().out


def test_version_and_module_are_the_same_program():
    from fedlit import __version__

    done = subprocess.run([sys.executable, "-m", "fedlit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"fedlit {__version__}"


def test_predict_writes_masks_of_the_pictures_own_size(finished, pictures, tmp_path, capsys):
    paths, masks = pictures
    assert fedlit("predict", finished / "run", *paths, "--out", tmp_path / "out") == 0
    written = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in written] == ["patient0.png", "patient1.png", "patient2.png"]
    for path, mask in zip(written, masks, strict=True):
        found = np.asarray(Image.open(path))
        assert found.shape == (40, 50) and set(np.unique(found)) <= {0, 255}
        truth = np.asarray(Image.fromarray(mask).resize((50, 40), Image.Resampling.NEAREST)) > 0
        assert 2 * ((found > 0) & truth).sum() / ((found > 0).sum() + truth.sum()) > 0.5


def test_predict_gives_the_masks_that_were_scored(config_file, disc_data, tmp_path):
    """In the run's precision, and in its batches: TENT adapts to each as it comes."""
    stride = "prediction.tent_online.adaptation.lr=0.1"  # far enough to be seen
    words = ("precision=bf16-mixed", "prediction=[tent_online]", "batch_size=2", "num_rounds=5", "lr=0.02", stride)
    assert fedlit("run", config_file, *words) == 0
    kept = json.loads((tmp_path / "run" / "summary.json").read_text())["kept_round"]
    cases = [
        row for row in Record(tmp_path / "run").cases() if (row.round, row.site, row.metric) == (kept, "u", "dice")
    ]
    images = sorted(disc_data.glob("u_*.png"))
    for model in ("global", "tent_online"):
        assert fedlit("predict", tmp_path / "run", *images, "--model", model, "--out", tmp_path / model) == 0
        scored = [row.value for row in sorted(cases, key=lambda row: row.case) if row.model == model]
        for path, dice in zip(images, scored, strict=True):
            found = np.asarray(Image.open(tmp_path / model / path.name)) > 0
            truth = np.asarray(Image.open(disc_data / f"mask_{path.name}")) > 0
            assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) == pytest.approx(dice, abs=1e-12)
    last = [(tmp_path / model / images[-1].name).read_bytes() for model in ("global", "tent_online")]
    assert last[0] != last[1]


def test_a_model_in_another_precision_has_the_statistics_that_were_learnt(config_file, tmp_path):
    assert fedlit("run", config_file, "precision=64-true", "network.norm=batch", "num_rounds=1", "local_epochs=1") == 0
    state = read_state(tmp_path / "run" / "checkpoint", kept_name(tmp_path / "run" / "checkpoint")).server.weights
    found = open_model(tmp_path / "run").network.state_dict()
    statistics = [name for name in state if "running_" in name]
    assert statistics and all(torch.equal(found[name], state[name]) for name in state)


def test_a_personal_model_needs_its_site(finished, pictures, tmp_path, capsys):
    paths, _ = pictures
    assert fedlit("predict", finished / "local", *paths, "--out", tmp_path / "out") == 2
    assert "name a member with --site" in capsys.readouterr().err
    assert fedlit("predict", finished / "local", *paths, "--site", "nowhere", "--out", tmp_path / "out") == 2
    assert "this run has the sites a, b, c" in capsys.readouterr().err
    assert fedlit("predict", finished / "local", *paths, "--site", "a", "--out", tmp_path / "a") == 0
    assert fedlit("predict", finished / "run", *paths, "--model", "magic", "--out", tmp_path / "b") == 2
    assert "allowed are global, personal" in capsys.readouterr().err


def test_predict_overwrites_neither_images_nor_its_own_masks(finished, pictures, tmp_path, capsys):
    paths, _ = pictures
    before = paths[0].read_bytes()
    assert fedlit("predict", finished / "run", paths[0], "--out", paths[0].parent) == 2
    assert "is where patient0.png lies" in capsys.readouterr().err and paths[0].read_bytes() == before
    for number in (1, 2):
        (tmp_path / f"1.2.840.{number}.png").write_bytes(before)
    assert fedlit("predict", finished / "run", *tmp_path.glob("1.2*.png"), "--out", tmp_path / "out") == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"1.2.840.1.png", "1.2.840.2.png"}
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / paths[0].name).write_bytes(before)
    same = (paths[0], tmp_path / "more" / paths[0].name)
    assert fedlit("predict", finished / "run", *same, "--out", tmp_path / "b") == 2
    assert "overwrite each other" in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_nested_classes_are_painted_inside_each_other(tmp_path, disc_data, config_file, monkeypatch):
    """A class within another shows in the mask, whatever its mask value and the order of labels."""
    from fedlit import command

    labels = "data.labels={disc: [0, 255], cup: 0}"
    assert fedlit("run", config_file, labels, "data.background=128", "num_rounds=1") == 0
    inside = torch.zeros(1, 2, 32, 32)
    inside[:, 0], inside[:, 1, 8:16, 8:16] = 1, 1
    monkeypatch.setattr(command, "masks", lambda logits, num_classes: inside.bool())
    image = next(disc_data.glob("a_0*.png"))
    assert fedlit("predict", tmp_path / "run", image, "--out", tmp_path / "out") == 0
    found = np.asarray(Image.open(tmp_path / "out" / image.name))
    assert (found[8:16, 8:16] == 2).all() and (found == 1).sum() == 32 * 32 - 64


def test_a_run_with_local_buffers_needs_a_site(config_file, tmp_path, pictures, capsys):
    paths, _ = pictures
    assert fedlit("run", config_file, "network.norm=batch", "buffers=local", "num_rounds=1") == 0
    assert "there is no global model for u" in capsys.readouterr().out
    assert fedlit("predict", tmp_path / "run", paths[0], "--out", tmp_path / "out") == 2
    assert "name a member with --site" in capsys.readouterr().err
    assert fedlit("predict", tmp_path / "run", paths[0], "--site", "a", "--out", tmp_path / "out") == 0


def test_an_exported_model_predicts_the_same(finished, tmp_path, capsys):
    from safetensors.torch import load_file

    from fedlit.finished import open_model
    from fedlit.networks import UNet

    assert fedlit("export", finished / "run", tmp_path / "model") == 0
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    assert described["network"]["target"] == "fedlit.networks.UNet" and described["output"]["classes"] == ["disc"]
    network = UNet(**described["network"]["arguments"])
    network.load_state_dict(load_file(tmp_path / "model" / "model.safetensors"))
    image = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(image), open_model(finished / "run").network(image))
    assert fedlit("export", finished / "local", tmp_path / "b", "--site", "b") == 0
    assert json.loads((tmp_path / "b" / "model.json").read_text())["run"]["site"] == "b"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["run", "quickstart", "num_rounds"], "'num_rounds' is no key=value"),
        (["run", "quickstart", "lrr=1"], "lrr (command line): unknown key; did you mean lr?"),
        (
            ["evaluate", "nowhere"],
            "nowhere is no run directory: it has no config.yaml; give the folder that `fedlit run`",
        ),
        (["run", "quickstart", "prediction=[routingg]"], "none of that name; did you mean routing? it ships adabn, "),
        (["export", "nowhere", "out"], "is no run directory: it has no config.yaml"),
        (["predict", "nowhere", "--out", "x"], "Missing argument 'IMAGES"),
        (["fly"], "No such command 'fly'"),
    ],
)
def test_bad_words_are_refused_with_one_clear_message(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert fedlit(*words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


def test_check_says_all_problems_at_once_and_what_is_unset(capsys):
    assert fedlit("check", "cxr_lungs") == 0
    assert "data.root is not set: pictures not checked" in capsys.readouterr().err
    assert fedlit("check", "cxr_lungs", "data.root=/nowhere/at/all", "lr=fast", "network.depht=3", "seeed=1") == 2
    message = capsys.readouterr().err
    for part in (
        "4 problems",
        "/nowhere/at/all",
        "expected float, got 'fast'",
        "did you mean depth?",
        "did you mean seed?",
    ):
        assert part in message
    assert fedlit("run", "cxr_lungs") == 2
    assert "data.root" in capsys.readouterr().err


def small(value: int, size: int = 32) -> Image.Image:
    return Image.new("L", (size, size), value)


BROKEN = {
    "a picture that is missing": (lambda root: (root / "a_00.png").unlink(), "line 2: image='a_00.png' does not exist"),
    "a truncated picture": (lambda root: truncate(root / "a_00.png"), "sites.csv line 2"),
    "a mask of another size": (lambda root: small(0, size=8).save(root / "mask_a_00.png"), "sites.csv line 2"),
    "a mask value too many": (
        lambda root: small(7).save(root / "mask_a_00.png"),
        "mask values 7 are outside of the label",
    ),
    "a picture of one value": (lambda root: small(7).save(root / "a_00.png"), "sites.csv line 2"),
    "the same picture at two sites": (lambda root: copy(root / "a_00.png", root / "b_00.png"), "a_00.png"),
    "a patient in two splits": (lambda root: edit(root, "p0\n", "p9\n", 1), "p9"),
    "a path that leaves the root": (lambda root: edit(root, "a_00.png", "../a_00.png", 1), "outside of"),
    "no such column": (lambda root: edit(root, "group", "patient", 1), "the column 'group' is missing"),
}


def truncate(path):
    path.write_bytes(path.read_bytes()[:60])


def edit(root, old, new, count):
    path = root / "sites.csv"
    path.write_text(path.read_text().replace(old, new, count))


@pytest.mark.parametrize("case", BROKEN)
def test_broken_data_are_named_and_nothing_is_begun(case, tmp_path, config_file, capsys):
    root = tmp_path / "data"
    root.mkdir()
    write_manifest(root, {"a": (3, 1, 6), "b": (2, 1, 1)})
    damage, message = BROKEN[case]
    damage(root)
    assert fedlit("run", config_file, f"data.root={root}", "unseen_sites=[]") == 2
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err, captured.err
    assert not (tmp_path / "run" / "checkpoint").exists()


def test_other_bad_federations_are_named(config_file, tmp_path, capsys):
    for words, message in {
        ("unseen_sites=[x]",): "unseen_sites",
        ("unseen_sites=[a,b,c,u]",): "no site is left to train; the sites are a, b, c, u",
        ("min_available_clients=9",): "min_available_clients=9, but only 3 sites train",
        ("activation=softmax",): "activation=softmax does not fit loss: ",
    }.items():
        assert fedlit("run", config_file, *words) == 2, words
        captured = capsys.readouterr().err
        assert message in captured and "Traceback" not in captured


def test_a_small_site_is_said(config_file, capsys):
    assert fedlit("run", config_file, "batch_size=6", "num_rounds=1") == 0
    assert "b has 5 training pictures, fewer than batch_size=6" in capsys.readouterr().out


def test_a_disk_that_is_full_fails_clearly_and_loses_nothing(config_file, tmp_path, capsys, monkeypatch):
    from fedlit import checkpoint

    assert fedlit("run", config_file, "num_rounds=1") == 0
    write = checkpoint.write_atomically

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(checkpoint, "write_atomically", full)
    assert fedlit("run", config_file) == 1
    message = capsys.readouterr().err
    assert "No space left on device" in message and "checkpoint" in message and "Traceback" not in message
    monkeypatch.setattr(checkpoint, "write_atomically", write)
    assert fedlit("run", config_file) == 0


@pytest.mark.skipif(not (REAL_DATA / "cxr_lungs").is_dir(), reason="FEDLIT_TEST_DATA holds no cxr_lungs")
@pytest.mark.long
def test_real_chest_x_rays_train(tmp_path):
    words = (
        f"data.root={REAL_DATA / 'cxr_lungs'}",
        "num_rounds=1",
        "data.image_size=32",
        "network.base_channels=4",
        f"run_dir={tmp_path / 'run'}",
    )
    assert fedlit("run", "cxr_lungs", *words) == 0
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["sites"]) == 7


@pytest.mark.skipif(not (REAL_DATA / "retina_vessels").is_dir(), reason="FEDLIT_TEST_DATA holds no retina_vessels")
@pytest.mark.long
def test_real_fundus_photographs_train(tmp_path):
    words = (
        f"data.root={REAL_DATA / 'retina_vessels'}",
        "num_rounds=1",
        "local_steps=1",
        "batch_size=2",
        "network.base_channels=4",
        f"run_dir={tmp_path / 'run'}",
    )
    assert fedlit("run", "retina_vessels", *words) == 0
    assert len(json.loads((tmp_path / "run" / "summary.json").read_text())["sites"]) == 5
