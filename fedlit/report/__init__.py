"""One self-contained page about a run, the worst site first: no network, no script, nothing but the run directory."""

from fedlit.report.page import write_report

__all__ = ["write_report"]
