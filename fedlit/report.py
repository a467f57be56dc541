"""One self-contained page about a run, the worst site first: no network, no script, nothing but the run directory."""

from __future__ import annotations

import base64
import io
import json
import math
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedlit.display import duration, megabytes
from fedlit.errors import BadInput
from fedlit.record import CaseRow, MetricRow, Record, anonymous, case_means, is_secret, masked, printable, replacing
from fedlit.record import summarise as summarise_round

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RANKS = ("worst", "median", "best")
NAMES = {"dice": "Dice", "iou": "IoU", "hd95": "HD95", "assd": "ASSD", "nsd": "NSD", "mm": "mm", "px": "px"}


@dataclass(frozen=True)
class Run:
    """What a run directory says: all rows of metrics.csv, and of cases.csv those of the round and split shown."""

    name: str
    summary: Mapping[str, Any]
    rows: Sequence[MetricRow]
    cases: Sequence[CaseRow]
    config: Mapping[str, str]
    provenance: Mapping[str, str]

    @property
    def sites(self) -> Mapping[str, Mapping[str, Any]]:
        return self.summary.get("sites") or {}


def write_report(run_dir: str | Path) -> Path:
    """Draw report.html from the files of a run directory; any of them may be missing. Returns its path.

    Raises:
        BadInput: a file is there and cannot be read.
    """
    import jinja2

    run_dir = Path(run_dir)
    run = read_run(run_dir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": printable, "duration": duration, "megabytes": megabytes}
    pictures, unreadable = read_pictures(run_dir / "pictures", run)
    page = environment.get_template("report.html.jinja").render(
        run=run,
        summary=run.summary,
        notices=[*notices(run.summary), *unreadable],
        table=site_table(run),
        predictors=predictor_table(run),
        curves=drawings("curves", lambda width: draw_curves(run, width)),
        boxes=drawings("boxes", lambda width: draw_boxes(run, width)),
        pictures=pictures,
    )
    path = run_dir / "report.html"
    with replacing(path) as file:
        file.write(page.encode("utf-8", errors="replace"))
    return path


# --------------------------------------------------------------------------------------------------- reading the run


def read_run(run_dir: Path) -> Run:
    summary = _load(run_dir / "summary.json", json.loads)
    rows = list(Record(run_dir).metrics())
    if not summary.get("sites"):
        summary = {**_so_far(rows), **summary}
    where = summary.get("round", summary.get("kept_round")), summary.get("split", "test")
    cases = [row for row in Record(run_dir).cases() if (row.round, row.split) == where]
    config = _load(run_dir / "config.yaml", _read_yaml)
    name = str(summary.get("name") or config.get("name") or run_dir.resolve().name)
    provenance = _flat(_load(run_dir / "provenance.json", json.loads))
    return Run(name, summary, rows, cases, _flat(config), provenance)


def _load(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = parse(path.read_text(encoding="utf-8"))
        if not isinstance(value, dict):
            raise ValueError(f"a {type(value).__name__} instead of a mapping")
    except ValueError as error:
        raise BadInput(f"{path} cannot be read ({error}); restore it or remove it, the report does without") from None
    return value


def _read_yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings as dotted keys; secrets masked, home directories shortened."""
    flat: dict[str, str] = {}
    for key, item in value.items():
        key = f"{prefix}{key}"
        if isinstance(item, list) and any(isinstance(part, dict | list) for part in item):
            item = {str(index): part for index, part in enumerate(item)}
        if isinstance(item, dict) and item:
            flat |= _flat(item, f"{key}.")
            continue
        text = ", ".join(map(str, item)) if isinstance(item, list) else "" if item is None else str(item)
        flat[key] = "***" if is_secret(key) and text else anonymous(masked(text))
    return flat


def _so_far(rows: Sequence[MetricRow]) -> dict[str, Any]:
    """A summary of an unfinished run: its newest scores. metrics.csv knows no cases, so there are no intervals."""
    scored = [row for row in rows if row.metric == "dice" and row.split != "train"]
    if not scored:
        return {}
    last = max(scored, key=lambda row: row.round)
    here = [row for row in rows if (row.round, row.model, row.split) == (last.round, last.model, last.split)]
    values = [CaseRow(row.round, row.site, "", row.model, row.split, "", row.metric, row.value) for row in here]
    summary = summarise_round(values, here, round=last.round, model=last.model, split=last.split)
    for row in here:
        summary["sites"][row.site][row.metric]["num_cases"] = row.num_cases
    return summary | {"unfinished": True}


def notices(summary: Mapping[str, Any]) -> list[str]:
    """What the reader must know before believing the numbers."""
    found = []
    if summary.get("unfinished"):
        found.append(f"The run is not finished: these are the {summary['split']} scores of round {summary['round']}.")
    dropped = summary.get("dropped") or ()
    if isinstance(dropped, Mapping):
        dropped = [f"{site}: {reason}" for site, reason in dropped.items()]
    found += [f"Dropped client: {text}" for text in dropped]
    return found + [f"Warning: {text}" for text in summary.get("warnings") or ()]


# --------------------------------------------------------------------------------------------------------- the tables


def site_table(run: Run) -> dict[str, Any]:
    """Heading and rows of the worst-site-first table, as text."""
    names = dict.fromkeys(name for scores in run.sites.values() for name in scores)
    metrics = [name for name in names if name not in ("role", "dice")]
    rows = []
    for site, scores in run.sites.items():
        dice = scores.get("dice", {})
        low, high = dice.get("ci_low"), dice.get("ci_high")
        spreads = [scores[name] for name in ("dice", *metrics) if name in scores]
        rows.append({
            "site": site,
            "role": scores["role"],
            "num_cases": dice.get("num_cases", 0),
            "dice": _number(dice.get("mean"), "dice"),
            "interval": "–" if low is None or high is None else f"{low:.3f} – {high:.3f}",
            "others": [_number(scores.get(name, {}).get("mean"), name) for name in metrics],
            "num_excluded": max((spread.get("num_excluded", 0) for spread in spreads), default=0),
        })  # fmt: skip
    return {"metrics": [metric_name(name) for name in metrics], "rows": rows}


def metric_name(name: str) -> str:
    """`hd95_mm` -> `HD95 (mm)`."""
    kind, _, unit = name.partition("_")
    return NAMES.get(kind, kind) + (f" ({NAMES.get(unit, unit)})" if unit else "")


def _number(value: float | None, metric: str) -> str:
    if value is None or math.isnan(value):
        return "–"
    return f"{value:.2f}" if metric.startswith(("hd95", "assd")) else f"{value:.3f}"


def predictor_table(run: Run) -> dict[str, Any] | None:
    """Test Dice of every predictor at every site, where there is more than one predictor."""
    scores: dict[str, dict[str, float]] = {}
    for row in run.rows:
        if (row.round, row.split, row.metric) == (run.summary.get("round"), run.summary.get("split"), "dice"):
            scores.setdefault(row.model, {})[row.site] = row.value
    if len(scores) < 2:
        return None
    models = sorted(scores, key=lambda model: (model != run.summary.get("model"), model))
    lines = {site: [scores[model].get(site, math.nan) for model in models] for site in run.sites}
    members = [site for site, found in run.sites.items() if found["role"] == "member"] or list(lines)
    columns = list(zip(*(lines[site] for site in members), strict=True))
    counted = [[value for value in column if not math.isnan(value)] for column in columns]
    below = {
        "worst": [min(column, default=math.nan) for column in counted],
        "mean": [math.fsum(column) / len(column) if column else math.nan for column in counted],
    }
    return {"models": models, "rows": _best_marked(lines), "below": _best_marked(below)}


def _best_marked(lines: Mapping[str, Sequence[float]]) -> dict[str, list[tuple[str, bool]]]:
    best = {name: max((value for value in row if not math.isnan(value)), default=None) for name, row in lines.items()}
    return {name: [(_number(value, "dice"), value == best[name]) for value in values] for name, values in lines.items()}


# ----------------------------------------------------------------------------------------------------------- the plots

WIDE, NARROW = 1000, 342  # CSS pixels of a drawing on a desktop page and on a phone
LETTER = 8.2  # CSS pixels a letter of 13 pixels may be wide; which font the reader has is not known

# Colours are placeholders that become CSS variables of the page, so one drawing serves the light and the dark scheme.
INK, MUTED, RULE, GREY = "#010101", "#010102", "#010103", "#010104"
WORST, BEST = "#010105", "#010106"
COLOURS = ("#010107", "#010108", "#010109", "#01010a", "#01010b")
VARIABLES = {INK: "ink", MUTED: "muted", RULE: "rule", GREY: "grey", WORST: "worst", BEST: "best"}
VARIABLES |= {colour: f"series-{index}" for index, colour in enumerate(COLOURS, 1)}


def drawings(name: str, draw: Callable[[int], Figure | None]) -> list[tuple[str, Any]]:
    """(class, SVG) of a drawing for wide and for narrow pages, of which the style sheet shows one; maybe empty."""
    import matplotlib as mpl
    from markupsafe import Markup

    style: Any = {"svg.fonttype": "none", "text.parse_math": False, "font.size": 13, "axes.edgecolor": RULE,
             "axes.labelcolor": MUTED, "xtick.color": RULE, "ytick.color": RULE, "xtick.labelcolor": MUTED,
             "ytick.labelcolor": MUTED, "text.color": INK, "grid.color": RULE, "axes.axisbelow": True,
             "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False}  # fmt: skip
    made = []
    for kind, width in (("wide", WIDE), ("narrow", NARROW)):
        with mpl.rc_context({**style, "svg.hashsalt": f"{name}-{kind}"}), warnings.catch_warnings():
            # A name in a script that matplotlib's font lacks: the browser has the glyph, only its width is a guess.
            warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
            figure = draw(width)
            if figure is None:
                return []
            text = io.StringIO()
            # Without a date the same run directory gives the same page.
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        made.append((kind, Markup(_inline(text.getvalue(), f"{name}-{kind}"))))  # matplotlib has escaped the names
    return made


def _inline(svg: str, prefix: str) -> str:
    """An SVG file as a part of the page: own ids, colours of the page, as wide as its place."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'(?<= id=")|(?<=url\(#)|(?<=href="#)', f"{prefix}-", svg)
    svg = re.sub(r'^<svg [^>]*?(viewBox="[^"]*")[^>]*>', r'<svg \1 role="img" aria-hidden="true">', svg, count=1)
    return re.sub("#0101[0-9a-f]{2}", lambda found: f"var(--{VARIABLES[found.group()]})", svg)


def _short(name: str, limit: int) -> str:
    name = printable(name)
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _colours(run: Run, sites: Sequence[str]) -> dict[str, str]:
    """The worst and the best member stand out in every drawing; the others have a colour each if they are few."""
    members = [site for site, found in run.sites.items() if found["role"] == "member"] or list(run.sites)
    ends = {members[0]: WORST, members[-1]: BEST} if len(members) > 1 else {}
    others = [site for site in sites if site not in ends]
    few = COLOURS if len(others) <= len(COLOURS) else ()
    return dict.fromkeys(others, GREY) | dict(zip(others, few, strict=False)) | ends


def draw_curves(run: Run, width: int) -> Figure | None:
    """Validation Dice of every site over rounds, a panel for each model."""
    from matplotlib.figure import Figure

    curves: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for row in run.rows:
        if (row.split, row.metric) == ("val", "dice") and not math.isnan(row.value):
            curves.setdefault(row.model, {}).setdefault(row.site, []).append((row.round, row.value))
    if not curves:
        return None
    num_columns = min(len(curves), 2 if width == WIDE else 1)
    num_rows = math.ceil(len(curves) / num_columns)
    panel = 380 if width == WIDE else 280
    figure = Figure(figsize=(width / 72, num_rows * panel / 72))
    longest = max(len(_short(site, _room(width, num_columns))) for found in curves.values() for site in found)
    across, below = width / num_columns, num_rows * panel
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex=True, sharey=True)
    right = 14 + LETTER * longest
    figure.subplots_adjust(
        left=46 / width, right=1 - right / width, top=1 - 34 / below, bottom=46 / below,
        wspace=(46 + right) / (across - 46 - right), hspace=80 / (panel - 80),
    )  # fmt: skip
    for place, (model, found) in zip(axes.flat, curves.items(), strict=False):
        if len(curves) > 1:
            place.set_title(printable(model), loc="left", fontsize=13, color=INK, pad=14)
        _draw_panel(place, {site: sorted(points) for site, points in found.items()}, run, _room(width, num_columns))
    for place in axes.flat[len(curves) :]:
        place.set_axis_off()
    return figure


def _room(width: int, num_columns: int) -> int:
    """Letters that a direct label may have."""
    return 26 if width == WIDE and num_columns == 1 else 13


def _draw_panel(place: Axes, curves: Mapping[str, Sequence[tuple[int, float]]], run: Run, room: int) -> None:
    from matplotlib.ticker import FixedLocator, MaxNLocator

    ranked = sorted(curves, key=lambda site: (curves[site][-1][1], site))  # by the last value, where the labels stand
    colours = _colours(run, sorted(curves))
    for site in sorted(curves, key=lambda site: (colours[site] != GREY, colours[site] in (WORST, BEST))):
        colour = colours[site]
        rounds, values = zip(*curves[site], strict=True)
        is_grey = colour == GREY
        place.plot(rounds, values, color=colour, linewidth=1 if is_grey else 2, alpha=0.7 if is_grey else 1,
                   marker="o" if len(rounds) == 1 else None, solid_capstyle="round")  # fmt: skip
    first, last = (bound(r for points in curves.values() for r, _ in points) for bound in (min, max))
    alone = 0.5 * (first == last)
    place.set_xlim(first - alone, last + alone)
    kept = run.summary.get("kept_round")
    if kept and first < last:
        place.axvline(kept, color=MUTED, linewidth=1, linestyle=(0, (2, 3)))
        side = "left" if kept < first + (last - first) / 3 else "right"  # never beside the names on the right
        place.annotate(f"kept: round {kept}", (kept, 1), (0, 4), xycoords=("data", "axes fraction"), fontsize=12,
                       textcoords="offset points", ha=side, color=MUTED)  # fmt: skip
    place.grid(axis="y", linewidth=1)
    place.tick_params(length=0)
    place.tick_params(axis="x", labelbottom=True)  # every panel, though they share the axis
    place.xaxis.set_major_locator(FixedLocator([first]) if alone else MaxNLocator(6, integer=True))
    place.yaxis.set_major_locator(MaxNLocator(5))
    place.set_xlabel("round")
    named = [site for site in ranked if colours[site] != GREY]
    for site, height in _spread_labels(place, named, curves):
        place.annotate(_short(site, room), (1, height), (8, 0), xycoords="axes fraction", textcoords="offset points",
                       va="center", color=colours[site])  # fmt: skip


def _spread_labels(place: Axes, sites: Sequence[str], curves: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """(site, height as a fraction of the axes) of labels that stand beside their curve's end and do not overlap."""
    low, high = place.get_ylim()
    figure = place.get_figure()
    pixels = place.get_position().height * figure.get_figheight() * 72  # type: ignore[union-attr]
    step = min(16 / pixels, 1 / max(1, len(sites) - 1))
    heights = [(curves[site][-1][1] - low) / (high - low) for site in sites]
    for index in range(1, len(heights)):
        heights[index] = max(heights[index], heights[index - 1] + step)
    ceiling = 1.0
    for index in range(len(heights) - 1, -1, -1):
        heights[index] = ceiling = min(heights[index], ceiling)
        ceiling -= step
    return zip(sites, heights, strict=True)


def draw_boxes(run: Run, width: int) -> Figure | None:
    """Dice of every case by site, the worst site on top: quartiles as a box, whiskers to 1.5 interquartile ranges."""
    from matplotlib.cbook import boxplot_stats
    from matplotlib.figure import Figure

    scores: dict[str, list[float]] = {}
    for (_, site, model, _, metric), means in case_means(run.cases).items():
        if (model, metric) == (run.summary.get("model"), "dice") and site in run.sites:
            scores[site] = [value for _, value in sorted(means.items()) if value is not None]
    sites = [site for site in run.sites if scores.get(site)]
    if not sites:
        return None
    limit = 30 if width == WIDE else 15
    left = 14 + LETTER * max(len(_short(site, limit)) for site in sites)
    step = 34 if len(sites) <= 20 else 20
    is_long = len(sites) > 20  # then the scale stands above, too
    head = 26 if is_long else 4
    height = 46 + head + step * len(sites)
    figure = Figure(figsize=(width / 72, height / 72))
    place = figure.add_axes((left / width, 46 / height, 1 - (left + 14) / width, 1 - (46 + head) / height))
    colours = _colours(run, sites)
    most = max(20, 3000 // len(sites))  # points of a site: a page of 64 large sites must stay small
    for row, site in enumerate(sites):
        colour = colours[site] if colours[site] in (WORST, BEST) else GREY
        box = boxplot_stats(scores[site])[0]
        place.hlines(row, box["whislo"], box["whishi"], color=colour, linewidth=1.5)
        place.barh(row, box["q3"] - box["q1"], left=box["q1"], height=0.56, color=colour, alpha=0.28, linewidth=0)
        place.vlines(box["med"], row - 0.28, row + 0.28, color=colour, linewidth=2.5)
        points = np.sort(scores[site])[np.unique(np.linspace(0, len(scores[site]) - 1, most).round().astype(int))]
        jitter = (np.arange(len(points)) * 0.618 % 1 - 0.5) * 0.44  # golden ratio: even, and the same every time
        place.plot(points, row + jitter, "o", color=colour, markersize=4, markeredgewidth=0, alpha=0.8)
    place.set_ylim(len(sites) - 0.4, -0.6)
    place.set_yticks(range(len(sites)), [_short(site, limit) for site in sites], color=INK)
    place.grid(axis="x", linewidth=1)
    place.tick_params(length=0)
    place.tick_params(axis="x", labeltop=is_long)
    place.set_xlabel("Dice of a case")
    return figure


# -------------------------------------------------------------------------------------------------------- the pictures


def read_pictures(folder: Path, run: Run) -> tuple[list[dict[str, Any]], list[str]]:
    """([{site, pictures of its worst, median and best case}], files that cannot be read), the worst site first."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    unreadable = []
    for path in sorted(folder.glob("*.npz")):
        try:
            with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                picture = {name: arrays[name] for name in arrays.files}
            drawn = _picture(picture)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            unreadable.append(f"Warning: {path.name} cannot be read and is left out: {error}")
            continue
        if drawn["model"] == run.summary.get("model", drawn["model"]):
            found[drawn["site"], drawn["rank"]] = drawn
    order = [site for site in run.sites if any((site, rank) in found for rank in RANKS)]
    order += sorted({site for site, _ in found} - set(order))
    rows = [[found[site, rank] for rank in RANKS if (site, rank) in found] for site in order]
    return [{"site": site, "pictures": row} for site, row in zip(order, rows, strict=True)], unreadable


def _picture(saved: Mapping[str, np.ndarray], longest: int = 384) -> dict[str, Any]:
    """A saved picture as the template wants it: a JPEG of at most `longest` pixels a side and outlines as SVG paths."""
    from PIL import Image

    image = Image.fromarray(saved["image"])
    scale = min(1.0, longest / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    data = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(data, "JPEG", quality=85)
    return {
        **{name: str(saved[name]) for name in ("site", "case", "rank", "model")},
        "dice": _number(float(saved["dice"]), "dice"),
        "width": size[0],
        "height": size[1],
        "jpeg": base64.b64encode(data.getvalue()).decode(),
        "reference": "".join(_outline(plane, size) for plane in saved["target"]),
        "prediction": "".join(_outline(plane, size) for plane in saved["prediction"]),
    }


def _outline(plane: np.ndarray, size: tuple[int, int]) -> str:
    """The border of a mask as an SVG path in pixels of a picture of `size` (width, height)."""
    import contourpy
    from PIL import Image

    mask = Image.fromarray(plane.astype(np.uint8) * 255).resize(size, Image.Resampling.BOX)
    padded = np.pad(np.asarray(mask, dtype=np.float64), 1)  # so that outlines close at the border of the picture
    path = ""
    for line in contourpy.contour_generator(z=padded).lines(127.5):
        points = " ".join(f"{x - 0.5:.4g} {y - 0.5:.4g}" for x, y in np.asarray(line)[:-1])
        path += f"M{points}Z"
    return path
