"""The command line about many runs: collect them, reproduce a study, compare."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from fedlit.errors import BadInput
from fedlit.job_commands import hand_over, overrides, resources
from fedlit.outcome import EXIT_CODES, say


@click.command(epilog=EXIT_CODES)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", multiple=True, type=click.Path(path_type=Path), help="FILE.csv, .md or .tex (repeatable).")
@click.option("--metric", default="dice", show_default=True, help="As metrics.csv names it.")
@click.option("--model", help="global, personal, ...; by default the one each run was judged by.")
@click.option("--split", default="test", show_default=True, type=click.Choice(["val", "test"]), help="Which cases.")
def collect(runs: Sequence[Path], out: Sequence[Path], metric: str, model: str | None, split: str) -> None:
    """Gather finished runs into one table, mean and std over seeds, and name those that are missing.

    RUNS are run directories, or folders of them. CSV has full precision; Markdown and LaTeX (booktabs) are rounded.

    \b
    fedlit collect runs/hospitals
    fedlit collect runs/fedavg runs/local/* --metric hd95_mm --out table.csv --out table.tex
    """
    from rich.console import Console

    from fedlit import collect as collecting
    from fedlit import collected_table, grouping

    for path in out:
        collected_table.check_suffix(path)
    found = collecting.collect(runs, metric=metric, model=model, split=split)
    for line in found.missing:
        say(f"not in the table: {line}")
    for line in found.remarks:
        say(line)
    table = grouping.tabulate(found.require())
    collected_table.show(table, Console())
    for path in out:
        collected_table.write(table, path)
        click.echo(path)


@click.command(epilog=EXIT_CODES)
@click.argument("study")
@overrides
@click.option("--data", type=click.Path(path_type=Path), help="The folder of sites.csv; fedlit prepare makes it.")
@click.option("--folds", metavar="all|SITE,...", help="Which sites are left out in turn; all by default.")
@click.option("--columns", metavar="NAME,...", help="Which columns of a study that names its own; all by default.")
@click.option("--seeds", default="3", show_default=True, help="How many (3 is 0, 1, 2), or which: 0,1 or 7,")
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Folder; runs/STUDY by default.")
@click.option("--table-only", is_flag=True, help="Begin no run: write the tables of those that are finished.")
@click.option("--submit", "is_submitted", is_flag=True, help="As an array of jobs for SLURM, see fedlit submit.")
@click.option("--dry-run", is_flag=True, help="Check every run and say how far each has come; begin none.")
@resources
def reproduce(
    study: str,
    overrides: Sequence[str],
    data: Path | None,
    folds: str | None,
    columns: str | None,
    seeds: str,
    out: Path | None,
    table_only: bool,
    is_submitted: bool,
    dry_run: bool,
    **resources: Any,
) -> None:
    """Make all runs of a study and its tables: methods x sites left out (or columns) x seeds.

    STUDY is a shipped study's name, or a file. KEY=VALUE holds in every run. Finished runs are skipped and interrupted
    ones go on, so the same command continues. The tables are table.csv, .md, .tex and .html in the folder.

    \b
    fedlit reproduce fedfms_prostate --data data/prostate network.checkpoint=sam_vit_b_01ec64.pth
    fedlit reproduce my_study.yaml --data data/lungs --folds jsrt,nlm --seeds 0,1 num_rounds=20
    fedlit reproduce fedfms_prostate --data data/prostate --submit --gpus 1 --time 12:00:00
    """
    from fedlit.slurm import Resources
    from fedlit.structure import refuse_misfits
    from fedlit.studies.grid import Asked, plan_of, waiting
    from fedlit.studies.reproducing import grid_of, said_of
    from fedlit.studies.study import read_study

    given = {key: value for key, value in resources.items() if value not in (None, ())}
    if given and not is_submitted:
        raise BadInput(f"--{next(iter(given)).replace('further', 'sbatch')}: is for a cluster; add --submit")
    if table_only and (is_submitted or dry_run):
        raise BadInput("--table-only: begins no run; leave --submit and --dry-run away")
    job = Resources(**resources)
    read = read_study(study)
    chosen = folds_or_columns(read, folds, columns)
    wanted = None if chosen is None else tuple(part.strip() for part in chosen.split(",") if part.strip())
    plan = plan_of(Asked(read, out or Path("runs") / read.name, data, wanted, seeds_of(seeds), tuple(overrides)))
    for line in plan.remarks:
        say(line)
    standings = plan.standings()
    points = waiting(standings)
    if not table_only:
        refuse_misfits(f"study {read.name}", ((point.run, point.config) for point in points))
    click.echo(said_of(standings))
    if is_submitted and points:
        hand_over(grid_of(plan, points), job, dry_run)
        click.echo("" if dry_run else "when they are done: the same command with --table-only in place of --submit")
        return
    if dry_run:
        for point, found in standings.items():
            click.echo(f"{found:9}| {point.title} | {point.path}")
        return
    finish(plan, standings, table_only)


def folds_or_columns(study: Any, folds: str | None, columns: str | None) -> str | None:
    """What was chosen of a study's folds or columns, of which it has one kind at most; None means all.

    Raises:
        BadInput: it has not what was chosen.
    """
    if columns is not None and not study.columns:
        raise BadInput(f"--columns: study {study.name} names no columns of its own; leave --columns away")
    if folds is not None and study.columns:
        raise BadInput(f"--folds: study {study.name} leaves no site out; its columns are chosen by --columns")
    return None if folds == "all" else folds or columns


def finish(plan: Any, standings: Any, table_only: bool) -> None:
    """Make the runs that are not complete, then the tables; ends the program where a run did not end well."""
    from rich.console import Console

    from fedlit.studies.grid import waiting
    from fedlit.studies.reproducing import write_tables, written
    from fedlit.studies.running import Halted, conduct

    failures = []
    if not table_only and (points := waiting(standings)):
        click.echo(f"what a run says while it goes on: {points[0].path / 'log.txt'}")
        try:
            failures = conduct(standings)
        except Halted as stop:
            say(f"{'error: ' if stop.code == 2 else ''}{stop}")
            sys.exit(stop.code)
    for line in failures:
        say(f"error: {line}")
    try:
        notes = write_tables(plan, Console())
    except BadInput as error:
        if not failures:
            raise
        say(f"error: {error}")
        sys.exit(1)
    for line in notes:
        say(line)
    for path in written(plan.asked.out):
        click.echo(path)
    if failures:
        sys.exit(1)


def seeds_of(text: str) -> tuple[int, ...]:
    """`3` is 0, 1, 2; `0,1` and `7,` are themselves.

    Raises:
        BadInput: neither.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) > 1 and not parts[-1]:
        parts.pop()
    if not all(part.isdecimal() for part in parts) or ("," not in text and int(parts[0]) < 1):
        raise BadInput(f"--seeds {text!r}: needs how many (3), or which (0,1)")
    return tuple(range(int(text))) if "," not in text else tuple(map(int, parts))


@click.command(epilog=EXIT_CODES)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), default=Path("compare.html"), show_default=True)
@click.option("--metric", default="dice", show_default=True, help="Without its unit: dice, hd95, ...")
def compare(runs: Sequence[Path], out: Path, metric: str) -> None:
    """Set finished runs side by side: scores, paired tests, curves, costs, and who gains by joining.

    RUNS were scored on the same test cases. Rows are named by what differs in their configs, runs that differ in their
    seed alone make one row. The first run is the reference: for members by the model that it was judged by, for other
    sites by its global model, or the first it recorded there. With a run of algorithm=local the page says for every
    hospital what joining brings it.

    \b
    fedlit compare runs/fedavg runs/iopfl runs/local
    fedlit compare runs/hospitals/* --metric hd95 --out hd95.html
    """
    from rich.console import Console

    from fedlit.studies.comparing import compare as comparison_of
    from fedlit.studies.comparison_page import notes, show, write_comparison

    if not out.parent.is_dir():
        raise BadInput(f"--out={out}: there is no folder {out.parent}")
    comparison = comparison_of(runs, metric)
    found = write_comparison(out, comparison)
    show(comparison, found, Console())
    for line in notes(comparison, found):
        say(line)
    click.echo(out)
