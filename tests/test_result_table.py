"""The result table fits the terminal and names the worst site."""

from __future__ import annotations

import io

from rich.console import Console

from fedlit.result_table import result_table


def plain(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def shown(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def summary(num_sites: int) -> dict:
    scores = {"mean": 0.81234, "std": 0.1, "ci_low": 0.7, "ci_high": 0.9, "num_cases": 12, "num_excluded": 0}
    empty = dict.fromkeys(scores) | {"num_cases": 0, "num_excluded": 3}
    site = {"role": "member", "dice": scores, "iou": scores, "hd95_mm": scores | {"mean": 12.345}, "nsd_mm": empty}
    sites = {f"[b]hospital{index}": site for index in range(num_sites)} | {"none": {"role": "unseen", "dice": empty}}
    return {"worst_site": "[b]hospital0", "worst_dice": 0.81234, "gap": 0.1, "mean_dice": 0.88, "sites": sites}


def test_the_result_table_has_as_many_columns_as_fit():
    narrow, wide = plain(40), plain(100)
    result_table(summary(3), narrow)
    result_table(summary(3), wide)
    assert all(len(line) <= 40 for line in shown(narrow)[:5])
    assert "0.700 to 0.900" in narrow.file.getvalue() and "hd95_mm" not in narrow.file.getvalue()
    lines = shown(wide)
    assert lines[0].split() == ["site", "Dice", "95", "%", "interval", "cases", "role", "iou", "hd95_mm", "nsd_mm"]
    assert lines[1].split() == ["[b]hospital0", "0.812", "0.700", "to", "0.900", "12", "member", "0.812", "12.35", "-"]
    assert lines[4].split() == ["none", "-", "-", "0", "unseen", "-", "-", "-"]
    assert lines[-1] == "worst site [b]hospital0 0.812 | gap 0.100 | mean 0.880"
    result_table({}, narrow)
    assert shown(narrow)[-1] == "no site was scored"
