"""The command line: run, evaluate, check, predict, export."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from fedlit import __version__
from fedlit.errors import BadInput, ClientFailed, Stopped

EXIT_CODES = """\b
Exit codes: 0 done, 1 failed, 2 bad input, 75 saved and to be run again, 130 Ctrl-C (saved)."""

SAVED = "the rounds that were complete are saved: run the same command to go on (without overwrite=true)"

overrides = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
run_argument = click.argument("run_dir", metavar="RUN", type=click.Path(path_type=Path))


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
    from fedlit import command

    command.run(checked(config, overrides).require(), sys.argv)


@cli.command()
@click.argument("config")
@overrides
def check(config: str, overrides: Sequence[str]) -> None:
    """Report every problem of CONFIG at once, without touching a device or a picture."""
    checked(config, overrides)
    click.echo(f"{config}: no problem found")


@cli.command(epilog=EXIT_CODES)
@run_argument
@overrides
def evaluate(run_dir: Path, overrides: Sequence[str]) -> None:
    """Score predictors on a finished run's test cases, add their rows and redraw the report.

    \b
    fedlit evaluate runs/quickstart
    fedlit evaluate runs/quickstart prediction=personal
    """
    from fedlit import command

    command.evaluate(checked(run_dir / "config.yaml", [*overrides, f"run_dir={run_dir}"]).require())


@cli.command()
@run_argument
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--site", help="The member whose own entries or personal model to use; needed where the run has some.")
@click.option("--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder for the masks.")
@click.option("--model", help="global or personal; by default the one the run was judged by.")
def predict(run_dir: Path, images: Sequence[Path], site: str | None, out: Path, model: str | None) -> None:
    """Write the masks of IMAGES as PNG files of the images' own size.

    0 is background. The only class is 255; of several, each is its place in data.labels, from 1, and a class inside
    another is painted over it. A volume gives one file for every slice.
    """
    from fedlit import command

    command.predict(run_dir, images, site=site, out=out, model=model)


@cli.command()
@run_argument
@click.argument("out", type=click.Path(path_type=Path, file_okay=False))
@click.option("--site", help="The member whose own entries or personal model to export.")
@click.option("--model", help="global or personal; by default the one the run was judged by.")
def export(run_dir: Path, out: Path, site: str | None, model: str | None) -> None:
    """Write a finished run's model to the folder OUT: model.safetensors and model.json."""
    from fedlit import command

    command.export(run_dir, out, site=site, model=model)


def checked(path: str | Path, overrides: Sequence[str]):  # -> config.Checked, imported late
    """The config without a problem, its notices and remarks printed.

    Raises:
        BadInput: naming every problem.
    """
    from fedlit.config import check, load

    loaded = load(path, overrides)
    result = check(loaded)
    for line in (*loaded.notices, *result.remarks):
        say(line)
    if result.problems:
        count = len(result.problems)
        listed = "".join(f"\n  {problem}" for problem in result.problems)
        raise BadInput(f"{path}: {count} problem{'s' * (count > 1)}{listed}")
    return result


def is_first() -> bool:
    """This process speaks to the user; the launchers of several processes number them in one of these variables."""
    return all(os.environ.get(name, "0") == "0" for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))


def guarded(function: Callable[[], None], debug: bool) -> int:
    """The exit code of a command, its error said in words; with `debug` errors keep their traceback."""
    try:
        function()
        return 0
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.ClickException as error:
        error.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        say(f"\nstopped by Ctrl-C; {SAVED}")
        return 130
    except Stopped as stop:
        say(f"{stop}; {SAVED}")
        return 75
    except Exception as error:
        if debug:
            traceback.print_exc()
        if isinstance(error, BadInput | ClientFailed):
            say(f"error: {error}")
            return 2 if isinstance(error, BadInput) else 1
        where = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
        click.echo(f"error: {type(error).__name__}: {error}{where}\nadd --debug for the traceback", err=True)
        return 1


def say(text: str) -> None:
    """An error that all processes share, said once."""
    if is_first():
        click.echo(text, err=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program `fedlit`."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    sys.exit(guarded(lambda: cli(arguments, prog_name="fedlit", standalone_mode=False), debug))


if __name__ == "__main__":
    main()
