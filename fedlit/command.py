"""What the commands do: run and evaluate an experiment, predict with and export what it learnt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from fedlit.assembly import assemble
from fedlit.checkpoint import kept_round
from fedlit.data.reading import VOLUMES
from fedlit.display import open_display
from fedlit.errors import BadInput
from fedlit.experiment import Experiment
from fedlit.files import write_json
from fedlit.finished import check_names, open_model
from fedlit.fleet import World
from fedlit.losses import masks
from fedlit.machine import resolve, start
from fedlit.networks.trained import save_trained
from fedlit.record import Record
from fedlit.result_table import predictor_table, result_table
from fedlit.rundir import FREE, SCORED, RunDirectory, changes
from fedlit.slurm import back_to_the_queue
from fedlit.stopping import heeding_signals
from fedlit.weights import save


def run(config: DictConfig, command: Sequence[str]) -> None:
    """Begin or continue the run of a config."""

    def to_the_end(experiment: Experiment) -> None:
        summary = experiment.run(command)
        if experiment.fleet.is_first:
            result_table(summary, Console())
            print(f"report: {experiment.run_dir / 'report.html'}")

    conduct(config, to_the_end)


def warm_start(config: DictConfig, command: Sequence[str]) -> None:
    """Make the first global model of a config, and go no further.

    Raises:
        BadInput: the config asks for none.
    """
    if config.start is None:
        raise BadInput("start is not set: there is nothing to do before the first round; give start=distillation")

    def to_the_start(experiment: Experiment) -> None:
        experiment.warm_start(command)
        if experiment.fleet.is_first:
            print(experiment.run_dir / "initial.safetensors")

    conduct(config, to_the_start)


def conduct(config: DictConfig, so_far: Callable[[Experiment], None]) -> None:
    """Do so much of the run of a config, in the processes that it asks for.

    Nothing of an old run is touched before the data and the network are known to be good.
    """
    config = resolve(config)
    fabric = start(config, config.loggers)
    is_first = fabric.is_global_zero
    with (
        back_to_the_queue(Path(config.run_dir), is_first=is_first),
        RunDirectory(config.run_dir) as run_dir,
        heeding_signals(),
        World.of(fabric, config.client_timeout) as world,
    ):
        admission = world.on_first(lambda: run_dir.admit(config))
        if admission == "complete":
            if is_first:
                print(
                    f"already complete: {run_dir.path}; raise num_rounds={config.num_rounds} to go on, or "
                    f"overwrite=true; further predictors are scored by fedlit evaluate {run_dir.path} prediction=[NAME]"
                )
            return
        with open_display(config.name, config.num_rounds, is_shown=is_first) as display:
            experiment = assemble(config, world, display)
            world.on_first(lambda: run_dir.begin(config, admission))
            if is_first:
                display.log_to(run_dir / "log.txt")
            try:
                so_far(experiment)
            finally:
                for logger in fabric.loggers:
                    logger.finalize("done")


def evaluate(config: DictConfig) -> None:
    """Score the predictors of a config on the test cases of the run it came from."""
    config = resolve(config)
    fabric = start(config, {})
    is_first = fabric.is_global_zero
    with RunDirectory(config.run_dir) as run_dir, World.of(fabric) as world:
        world.on_first(run_dir.lock)
        if problems := changes(run_dir.read_config(), config, (*FREE, *SCORED)):
            raise BadInput(f"evaluate scores the run as it was trained; it cannot change\n  {problems}")
        check_names(run_dir, config.prediction)
        with open_display(config.name, config.num_rounds, is_shown=is_first) as display:
            if is_first:
                display.log_to(run_dir / "log.txt")
            if not run_dir.is_scored:
                display.warn(
                    f"this run is not finished: round {kept_round(run_dir / 'checkpoint')} of {config.num_rounds} is "
                    "scored, the one kept so far; the command that began it goes on with it"
                )
            experiment = assemble(config, world, display)
            scored = experiment.evaluate()
    if is_first:
        rows = Record(run_dir.path).metrics()
        at_kept = (row for row in rows if (row.round, row.split) == (scored, "test"))
        predictor_table(at_kept, [*experiment.examination.predictors], Console())
        print(f"report: {run_dir / 'report.html'}")


def predict(run_dir: Path, images: Sequence[Path], *, site: str | None, out: Path, model: str | None) -> None:
    """Write masks as PNG of the images' own size; a volume gives one for every slice.

    0 is background. The only class is 255; of several, each is its place in data.labels, from 1, and a class inside
    another (fewer mask values) is painted over it.
    """
    learnt = open_model(run_dir, site=site, model=model, files=images)
    values = learnt.source.values
    order = sorted(range(len(values)), key=lambda number: -len(values[number]))
    names = mask_names(images, out)
    out.mkdir(parents=True, exist_ok=True)
    name_of = dict(zip(images, names, strict=True))
    for path, picture, logits in learnt.predict(images):
        name, size = name_of[path], picture.array.shape[1:3]
        for place, plane in enumerate(logits):
            found = masks(torch.nn.functional.interpolate(plane[None], size, mode="bilinear"), len(values))[0]
            mask = torch.zeros(size, dtype=torch.uint8)
            for number in order:
                mask[found[number]] = 255 if len(values) == 1 else number + 1
            target = out / (f"{name}_{place:03d}.png" if picture.is_volume else f"{name}.png")
            Image.fromarray(mask.numpy()).save(target)
            print(target)


def mask_names(images: Sequence[Path], out: Path) -> list[str]:
    """The images' names without their suffixes.

    Raises:
        BadInput: two are the same, also with a volume's slice numbers, or the masks would lie among the images.
    """
    names = [re.sub(r"\.(nii\.gz|\w+)$", "", path.name, flags=re.IGNORECASE) for path in images]
    has_slices = any(is_volume(path) for path in images)
    first: dict[str, Path] = {}
    for name, path in zip(names, images, strict=True):
        bare = re.sub(r"_\d{3}$", "", name) if has_slices else name
        if first.setdefault(bare, path) is not path:
            raise BadInput(f"{path} and {first[bare]}: their masks would overwrite each other; predict them one by one")
        if path.resolve().parent == out.resolve():
            raise BadInput(f"--out={out} is where {path.name} lies, a mask could overwrite it; choose another folder")
    return names


def is_volume(path: Path) -> bool:
    return path.name.lower().endswith((*VOLUMES, ".npy"))


def export(run_dir: Path, out: Path, *, site: str | None, model: str | None, trained_only: bool = False) -> None:
    """Write `model.safetensors`, the network's state dict, and `model.json`, what is needed to build and feed it.

    Args:
        trained_only: of the state dict, what was trained.
    """
    learnt = open_model(run_dir, site=site, model=model)
    if not learnt.is_network:
        raise BadInput(f"--model={model} is more than a network's weights; export global or personal")
    out.mkdir(parents=True, exist_ok=True)
    if trained_only:
        save_trained(out / "model.safetensors", learnt.network)
    else:
        save(out / "model.safetensors", learnt.network.state_dict())
    write_json(out / "model.json", learnt.description)
    print(out / "model.safetensors")
