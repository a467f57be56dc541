"""Templates of pages: escaped by default, a missing name is an error, style and parts shared by all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedlit.provenance import printable
from fedlit.units import duration, megabytes

if TYPE_CHECKING:
    import jinja2


def template(path: Path) -> jinja2.Template:
    """The template of a file, which may include those that lie beside it and those of the report."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([path.parent, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": printable, "duration": duration, "megabytes": megabytes}
    return environment.get_template(path.name)
