"""What the commands do: run and evaluate an experiment, predict with and export what it learnt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from PIL import Image
from rich.console import Console

from fedlit.assembly import assemble, resolve, start
from fedlit.data.reading import read_image
from fedlit.display import open_display
from fedlit.errors import BadInput
from fedlit.files import write_json
from fedlit.finished import open_model
from fedlit.fleet import on_first
from fedlit.losses import masks
from fedlit.result_table import result_table
from fedlit.rundir import FREE, RunDirectory, changes
from fedlit.stopping import heeding_signals
from fedlit.weights import save


def run(config: DictConfig, command: Sequence[str]) -> None:
    """Begin or continue the run of a config.

    Nothing of an old run is touched before the data and the network are known to be good.
    """
    config = resolve(config)
    fabric = start(config, config.loggers)
    is_first = fabric.is_global_zero
    with RunDirectory(config.run_dir) as run_dir, heeding_signals():
        admission = on_first(fabric, lambda: run_dir.admit(config))
        if admission == "complete":
            if is_first:
                print(
                    f"already complete: {run_dir / 'report.html'}; "
                    f"raise num_rounds={config.num_rounds} to go on, or overwrite=true"
                )
            return
        with open_display(config.name, config.num_rounds, is_shown=is_first) as display:
            experiment = assemble(config, fabric, display)
            on_first(fabric, lambda: run_dir.begin(config, admission))
            if is_first:
                display.log_to(run_dir / "log.txt")
            try:
                summary = experiment.run(command)
            finally:
                for logger in fabric.loggers:
                    logger.finalize("done")
    if is_first:
        result_table(summary, Console())
        print(f"report: {run_dir / 'report.html'}")


def evaluate(config: DictConfig) -> None:
    """Score the predictors of a config on the test cases of the run it came from."""
    config = resolve(config)
    fabric = start(config, {})
    is_first = fabric.is_global_zero
    with RunDirectory(config.run_dir) as run_dir:
        on_first(fabric, run_dir.lock)
        if problems := changes(run_dir.read_config(), config, (*FREE, "metrics")):
            raise BadInput(f"evaluate scores the run as it was trained; it cannot change\n  {problems}")
        with open_display(config.name, config.num_rounds, is_shown=is_first) as display:
            if is_first:
                display.log_to(run_dir / "log.txt")
            assemble(config, fabric, display).evaluate()
    if is_first:
        print(f"report: {run_dir / 'report.html'}")


def predict(run_dir: Path, images: Sequence[Path], *, site: str | None, out: Path, model: str | None) -> None:
    """Write masks as PNG of the images' own size.

    0 is background, 255 the only class; several classes have their first mask value each.
    """
    learnt = open_model(run_dir, site=site, model=model)
    codes = [255] if len(learnt.source.values) == 1 else [values[0] for values in learnt.source.values]
    out.mkdir(parents=True, exist_ok=True)
    for path in images:
        picture = read_image(path)
        size = picture.array.shape[1:3]
        for number, image in enumerate(learnt.images(picture)):
            with torch.inference_mode():
                logits = learnt.network(image[None])
            found = masks(torch.nn.functional.interpolate(logits.float(), size, mode="bilinear"), len(codes))[0]
            mask = torch.zeros(size, dtype=torch.uint8)
            for code, plane in zip(codes, found, strict=True):
                mask[plane] = code
            name = f"{path.name.split('.')[0]}{f'_{number:03d}' if picture.is_volume else ''}.png"
            Image.fromarray(mask.numpy()).save(out / name)
            print(out / name)


def export(run_dir: Path, out: Path, *, site: str | None, model: str | None) -> None:
    """Write `model.safetensors`, the network's state dict, and `model.json`, what is needed to build and feed it."""
    learnt = open_model(run_dir, site=site, model=model)
    out.mkdir(parents=True, exist_ok=True)
    save(out / "model.safetensors", learnt.network.state_dict())
    write_json(out / "model.json", learnt.description)
    print(out / "model.safetensors")
