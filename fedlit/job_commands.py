"""The command line about a cluster: submit a run or a grid of runs to SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import Any

import click

from fedlit.outcome import EXIT_CODES, say

overrides = click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
RESOURCES = (
    click.option("--nodes", type=click.IntRange(1), help="Machines."),
    click.option("--gpus", type=click.IntRange(0), help="GPUs of a node, each with a process; 0 for none."),
    click.option("--tasks", type=click.IntRange(1), help="Processes of a node without GPUs."),
    click.option("--cpus", type=click.IntRange(1), help="Cores of a process."),
    click.option("--time", help="Time limit, such as 4:00:00 or 1-12; the run stops 120 s before it, saved."),
    click.option("--partition", help="Queue; by default the cluster's."),
    click.option(
        "--sbatch", "further", multiple=True, metavar="OPTION", help="Of sbatch, as --account=X (repeatable)."
    ),
)


def resources(command: Callable) -> Callable:
    """Adds the options that say what a job asks for."""
    for option in reversed(RESOURCES):
        command = option(command)
    return command


@click.command(epilog=EXIT_CODES)
@click.argument("config")
@overrides
@resources
@click.option("--sweep", "sweeps", multiple=True, metavar="KEY=A,B,...", help="A dimension of a grid (repeatable).")
@click.option("--dry-run", is_flag=True, help="Print the script and the runs; submit and write nothing.")
def submit(config: str, overrides: Sequence[str], sweeps: Sequence[str], dry_run: bool, **resources: Any) -> None:
    """Hand a run of CONFIG to SLURM, or a grid of runs as one job array.

    Checks every run first, as `fedlit check` does. What is not given stays as it is at the head of
    launch/slurm.sbatch. Each run of a grid writes to a folder of its own in run_dir; gather them with collect.

    \b
    fedlit submit my.yaml --nodes 2 --gpus 4 --time 8:00:00 --partition gpu
    fedlit submit my.yaml --sweep unseen_sites=all --sweep seed=0,1,2     leave every site out, three times
    fedlit submit my.yaml algorithm=local --gpus 0 --tasks 4 --sbatch=--account=X --dry-run
    """
    from fedlit import slurm
    from fedlit.structure import refuse_misfits
    from fedlit.sweep import grid

    asked = slurm.Resources(**resources)
    found = grid(config, overrides, sweeps)
    refuse_misfits(config, zip(found.runs, found.configs, strict=True))
    for line in found.remarks:
        say(line)
    hand_over(found, asked, dry_run)


def hand_over(grid: Any, resources: Any, dry_run: bool) -> None:
    """Submit the runs, or show what would be."""
    from fedlit import slurm

    if dry_run:
        click.echo(slurm.filled(grid, resources))
        for run in grid.runs:
            click.echo(shlex.join(("fedlit", "run", *run.words)))
        return
    number = slurm.submit(grid, resources)
    count = len(grid.runs)
    click.echo(f"job {number} with {count} run{'s' * (count > 1)}:")
    for run in grid.runs:
        click.echo(f"  {run.run_dir}")
