"""The command line about data: prepare what owners publish, inspect it, partition one pooled set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from fedlit.outcome import EXIT_CODES, say

PREPARED = """\b
Exit codes: 0 done, 1 failed, 2 bad input, 3 done and something was left out (named, and in dataset.json),
130 Ctrl-C (the same command goes on)."""


class PrepareCommand(click.Command):
    """`fedlit prepare NAME --help` also says which layouts of NAME are read and which are not."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["words"] = list(args)  # --help is answered before NAME is known
        return super().parse_args(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from fedlit.preparation.command import READERS, described

        for name in [word for word in ctx.meta.get("words", ()) if word in READERS][:1]:
            with formatter.section(name):
                for line in described(name):
                    formatter.write(f"  {line}\n")  # not wrapped: patterns and commands stay whole
        super().format_epilog(ctx, formatter)


@click.command(cls=PrepareCommand, epilog=PREPARED)
@click.argument("name")
@click.argument("source", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--sites", metavar="A,B,...", help="Only these sites.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of splits that are not published.")
@click.option("--workers", type=click.IntRange(1), help="Processes; one for each core by default.")
@click.option("--split", help="prostate: iopfl (default), fedfms or seeded; fundus, nuclei, fets: fedfms.")
@click.option("--volumes", is_flag=True, help="prostate: whole volumes as NIfTI in place of their slices.")
@click.option("--neighbours", is_flag=True, help="prostate: the slices before and after as channels.")
@click.option("--ring", is_flag=True, help="fundus: the class disc is the rim alone, as FedFMS reads it.")
@click.option("--modality", help="fets: flair (default), t1, t1ce or t2.")
@click.option("--partition", help="fets: the file below SOURCE that names institutions.")
@click.option("--slices", is_flag=True, help="fets, nifti, dicom: every slice as a picture.")
@click.option("--images", metavar="PATTERN", help="folder, nifti: as {site}/images/{case}_{slice}.png.")
@click.option("--masks", metavar="PATTERN", help="folder, nifti, dicom: as {site}/masks/{case}_{slice}.png.")
@click.option("--site", help="folder, nifti: the one site, where the patterns name none.")
@click.option("--foreground", multiple=True, metavar="[NAME=]V,V", help="folder, nifti, dicom: mask values of a class.")
def prepare(name: str, source: Path, out: Path, sites: str | None, seed: int, workers: int | None, **options: Any):
    """Bring a data set as its owners publish it to the manifest layout, once.

    NAME is prostate, fundus, cxr, nuclei, fets, retina, folder, nifti or dicom; SOURCE the unpacked download; OUT gets
    images/, masks/, sites.csv and dataset.json. The same command continues one that was interrupted, and does nothing
    twice. `fedlit prepare NAME --help` lists the layouts of NAME that are read, and what to do with others.

    \b
    fedlit prepare prostate downloads/prostate data/prostate
    fedlit prepare folder scans data/lungs --images "{site}/{case}.png" --masks "{site}/{case}_mask.png"
    fedlit run papers/fedfms_fedmsa_prostate data.root=data/prostate network.checkpoint=FILE
    """
    from fedlit.preparation import command as preparing

    wanted = [site.strip() for site in (sites or "").split(",") if site.strip()]
    try:
        left_out = preparing.run(name, source, out, sites=wanted, seed=seed, workers=workers, options=options)
    except preparing.Interrupted as stop:
        say(str(stop))
        sys.exit(130)
    if left_out:
        sys.exit(preparing.LEFT_OUT)


@click.command(epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--file", default="sites.csv", show_default=True, help="The manifest in FOLDER.")
@click.option("--out", type=click.Path(path_type=Path), help="The page; FOLDER/inspection.html by default.")
@click.option("--no-pictures", is_flag=True, help="Leave patients' pictures out of the page; names of cases stay.")
@click.option("--background", default=0, show_default=True, help="The mask value that is no class.")
@click.option("--intensity", default="auto", show_default=True, help="What becomes 0 and 1, as data.intensity.")
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as the amount of data asks for by default.")
def inspect(
    folder: Path, file: str, out: Path | None, no_pictures: bool, background: int, intensity: str, workers: int | None
) -> None:
    """Look at the data of a manifest before training: numbers by site, copies, outliers, the shift between sites.

    What a run would refuse (files that cannot be read or do not fit, one picture at two sites or in two splits, a
    patient in two splits) is an error: exit code 2. Everything else is a warning: exit code 0.

    \b
    fedlit inspect data/lungs
    fedlit inspect data/lungs --no-pictures --out lungs.html
    """
    from rich.console import Console

    from fedlit.inspection.telling import inspect_folder

    inspect_folder(
        folder,
        file=file,
        out=out,
        with_pictures=not no_pictures,
        background=background,
        intensity=intensity,
        num_workers=workers,
        console=Console(),
    )


@click.command("partition", epilog=EXIT_CODES)
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--by",
    required=True,
    type=click.Choice(["iid", "size", "dirichlet", "pathological", "field"]),
    help="What sites differ in: chance, size, a statistic (mildly or wholly), a column of the manifest.",
)
@click.option("--sites", type=click.IntRange(2), help="How many; with --by field without it every value is a site.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed, the same sites.")
@click.option("--of", help="dirichlet, pathological: foreground (default) or brightness of a patient's pictures.")
@click.option("--alpha", type=float, help="dirichlet, size: 0.1 very unequal, 0.5 by default, 100 nearly equal.")
@click.option("--bins", type=int, help="dirichlet: that the statistic is cut into; 10 by default.")
@click.option("--shards", type=int, help="pathological: of a site; 2 by default.")
@click.option("--field", "name", metavar="COLUMN", help="field: the column, such as the scanner.")
@click.option("--file", default="sites.csv", show_default=True, help="The pooled manifest in FOLDER.")
@click.option("--background", default=0, show_default=True, help="The mask value that is no class.")
@click.option("--overwrite", is_flag=True, help="Replace OUT and its note.")
def partition_command(folder: Path, out: Path, by: str, sites: int | None, seed: int, **options: Any) -> None:
    """Deal the patients of one pooled set in FOLDER to sites: a new manifest OUT.csv, and a note of how, OUT.json.

    Patients stay whole and keep their split; no picture is copied.

    \b
    fedlit partition data/lungs data/lungs/even.csv --by iid --sites 4
    fedlit partition data/lungs data/lungs/skew.csv --by dirichlet --of brightness --alpha 0.3 --sites 5 --seed 1
    fedlit partition data/lungs data/lungs/scanners.csv --by field --field scanner
    fedlit run my.yaml data.root=data/lungs data.file=even.csv
    """
    from rich.console import Console

    from fedlit.partition.telling import partition_folder, rule_of

    plain = {key: options.pop(key) for key in ("file", "background", "overwrite")}
    rule = rule_of(by, options)
    partition_folder(folder, out, rule, num_sites=sites, seed=seed, console=Console(), **plain)
