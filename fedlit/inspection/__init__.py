"""A look at a manifest's data before they are trained on: statistics by site, suspicious cases, one page."""

from fedlit.inspection.before_run import remarks
from fedlit.inspection.inspecting import Inspection, inspect
from fedlit.inspection.page import write_page

__all__ = ["Inspection", "inspect", "remarks", "write_page"]
