"""The command line: one run from check to export, published weights, a teacher.

`data_commands` holds the commands about data, `job_commands` those about a cluster, `study_commands` those about many
runs.
"""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from fedlit import __version__
from fedlit.data_commands import inspect, partition_command, prepare
from fedlit.job_commands import overrides, submit
from fedlit.outcome import EXIT_CODES, guarded, say
from fedlit.study_commands import collect, compare, reproduce

run_argument = click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))


@contextmanager
def importing() -> Iterator[None]:
    """Python looks for no garbage meanwhile, nor later in what is there by then: 0.8 of a small run's 6.4 s."""
    if "torch" in sys.modules:  # nothing of weight is left to import
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        atexit.register(gc.unfreeze)  # else triton tells of leaks at the end
        gc.enable()


def commands():  # -> the module fedlit.command, imported late
    """What the commands of one run do; torch comes with it."""
    with importing():
        from fedlit import command

    return command


@click.group(epilog=EXIT_CODES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="fedlit", message="%(prog)s %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error (anywhere on the line).")
def cli(debug: bool) -> None:
    """Federated learning for medical image segmentation: hospitals train one model, no picture leaves its hospital."""


@cli.command(epilog=EXIT_CODES)
@click.argument("config")
@overrides
def run(config: str, overrides: Sequence[str]) -> None:
    """Train a federation and report on it.

    CONFIG is a YAML file, or the name of a shipped experiment such as quickstart. KEY=VALUE changes it.
    The same command continues a run that was interrupted.

    \b
    fedlit run quickstart
    fedlit run configs/cxr_lungs.yaml data.root=DIR num_rounds=50 algorithm=local
    fedlit run my.yaml seed=1 run_dir=runs/seed1 devices=2
    fedlit run my.yaml overwrite=true           start anew
    """
    commands().run(checked(config, overrides).require(), ["fedlit", *sys.argv[1:]])


@cli.command(epilog=EXIT_CODES)
@click.argument("config")
@overrides
def warm_start(config: str, overrides: Sequence[str]) -> None:
    """Make the first global model at the server, and no more: RUN/initial.safetensors.

    `fedlit run` of the same CONFIG goes on from it, or makes it itself.

    \b
    fedlit warm-start quickstart start=distillation
    """
    commands().warm_start(checked(config, overrides).require(), ["fedlit", *sys.argv[1:]])


@cli.command()
@click.argument("config")
@overrides
def check(config: str, overrides: Sequence[str]) -> None:
    """Report every problem of CONFIG at once, without touching a device or a picture.

    First those of its keys and values; where there are none, what does not fit together: members, network, algorithm.
    """
    from fedlit.config import refusal
    from fedlit.structure import structure

    result = checked(config, overrides)
    if misfits := structure(result):
        raise refusal(config, misfits)
    click.echo(f"{config}: no problem found")


@cli.command()
@click.argument("config")
@overrides
@click.option("--measure", is_flag=True, help="Time two training steps with one random picture on this machine.")
def plan(config: str, overrides: Sequence[str], measure: bool) -> None:
    """Say what a run of CONFIG would take: homes, parameters, messages, memory.

    Nothing is trained and no picture decoded; data.root and network.checkpoint may be left unset.

    \b
    fedlit plan quickstart
    fedlit plan configs/cxr_lungs.yaml data.root=DIR devices=8 --measure
    """
    from rich.console import Console

    from fedlit.plan import plan as plan_of
    from fedlit.plan_table import plan_table
    from fedlit.structure import sketchable

    plan_table(plan_of(sketchable(checked(config, overrides)).require(), measured=measure), Console())


@cli.command(epilog=EXIT_CODES)
@run_argument
@overrides
def evaluate(run_dir: Path, overrides: Sequence[str]) -> None:
    """Score predictors on a finished run's test cases, add their rows and redraw the report.

    \b
    fedlit evaluate runs/quickstart
    fedlit evaluate runs/quickstart prediction=personal
    """
    from fedlit.rundir import RunDirectory, refuse_of_rounds

    file = RunDirectory(run_dir).config_file
    refuse_of_rounds(overrides)
    commands().evaluate(checked(file, [*overrides, f"run_dir={run_dir}"]).require())


@cli.command()
@run_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--site", help="The member whose own entries or personal model to use; needed where the run has some.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the masks.")
@click.option("--model", help="global, personal, or a predictor such as tent; by default what the run was judged by.")
def predict(run_dir: Path, images: Sequence[Path], site: str | None, out: Path, model: str | None) -> None:
    """Write the masks of IMAGES as PNG files of the images' own size.

    0 is background. The only class is 255; of several, each is its place in data.labels, from 1, and a class inside
    another is painted over it. A volume gives one file for every slice.
    """
    commands().predict(run_dir, images, site=site, out=out, model=model)


@cli.command()
@run_argument
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--site", help="The member whose own entries or personal model to export.")
@click.option("--model", help="global, personal, or a predictor such as tent; by default what the run was judged by.")
@click.option("--trained-only", is_flag=True, help="Leave out what was frozen: adapters alone are small.")
def export(run_dir: Path, out: Path, site: str | None, model: str | None, trained_only: bool) -> None:
    """Write a finished run's model to the folder OUT: model.safetensors and model.json.

    What was trained alone can be put beside the same checkpoint again: network.trained=OUT/model.safetensors
    """
    commands().export(run_dir, out, site=site, model=model, trained_only=trained_only)


@cli.command()
@click.argument("name", required=False)
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the file; here by default.")
def weights(name: str | None, out: Path | None) -> None:
    """List the published weights of SAM and its medical kin, or fetch those of NAME.

    \b
    fedlit weights
    fedlit weights sam_vit_b --out weights
    """
    from rich.console import Console

    from fedlit import published_weights

    if name is not None:
        published_weights.fetch(name, out or Path(), Console())
        return
    if out is not None:
        raise click.UsageError("--out needs NAME: which weights to fetch; without --out they are listed")
    published_weights.show(Console())


@cli.command("pretrain-teacher", epilog=EXIT_CODES)
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--steps", type=click.IntRange(1), help="Of training; by default as many as the shipped one had.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of the drawn pictures.")
def pretrain_teacher(out: Path, steps: int | None, seed: int) -> None:
    """Make the small SAM that ships with fedlit anew: from drawn pictures alone, half an hour on two cores.

    The folder OUT gets micro_sam.safetensors, for network.checkpoint, and micro_sam.json, which says how it was made.
    The same command continues one that was interrupted; Ctrl-C loses three minutes at most.

    \b
    fedlit pretrain-teacher teacher
    fedlit pretrain-teacher quick --steps 600 --seed 1
    """
    from rich.console import Console

    from fedlit.micro_sam.making import make_teacher
    from fedlit.micro_sam.pretraining import Pretraining

    asked = Pretraining(seed=seed)
    make_teacher(out, asked if steps is None else replace(asked, steps=steps), Console())


def checked(path: str | Path, overrides: Sequence[str]):  # -> config.Checked, imported late
    """The config without a problem, its notices and remarks printed.

    Raises:
        BadInput: naming every problem.
    """
    from fedlit.config import check, load, refusal

    loaded = load(path, overrides)
    result = check(loaded)
    for line in (*loaded.notices, *result.remarks):
        say(line)
    if result.problems:
        raise refusal(path, result.problems)
    return result


for other_command in (prepare, inspect, partition_command, submit, collect, reproduce, compare):
    cli.add_command(other_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `fedlit`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    command = arguments[0] if arguments else ""
    sys.exit(guarded(lambda: cli(arguments, prog_name="fedlit", standalone_mode=False), command, debug))


if __name__ == "__main__":
    main()
