"""The display says every fact once, fits the terminal, gives the cursor back and keeps secrets."""

from __future__ import annotations

import io
import os
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from fedlit.display import open_display


def plain(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def screen(width: int, height: int) -> Console:
    return Console(file=io.StringIO(), width=width, height=height, force_terminal=True, _environ={"TERM": "xterm"})


def shown(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def test_plain_lines_hold_one_fact_each_with_units():
    console = plain()
    with open_display("run", 12, console=console) as display:
        display.round_started(11, ["hk", "mg", "oslo", "bern"])
        display.client_done("hk", 3.0, 0.5)
        display.client_done("mg", 90.0, 0.25)
        display.round_finished(11, 38.2, 14_700_000, 2_000_000_000)
        display.scored(11, {"mg": 0.9, "hk": 0.8123, "oslo": float("nan"), "bern": None})
        display.round_started(12, ["hk"])
        display.round_finished(12, 3.21, 1_000, 0)
        display.warn("hk was dropped")
        display.scored(12, {"hk": 0.5})
        display.warn("hk was dropped")
        display.say("done")
    assert shown(console) == [
        "round 11 | client mg | 90 s | loss 0.250",
        "round 11 | 4 clients | 38 s | 14.7 MB up | 2.0 GB down | worst site hk 0.812",
        "round 12 | 1 client | 3.2 s | 0.001 MB up | 0.0 MB down",
        "warning | hk was dropped",
        "round 12 | worst site hk 0.500",
        "done",
    ]
    assert display.warnings == ["hk was dropped"]


def test_a_finished_round_is_told_even_if_nothing_follows():
    console = plain()
    with pytest.raises(KeyboardInterrupt), open_display("run", 2, console=console) as display:
        display.round_finished(1, 1.0, 0, 0)
        raise KeyboardInterrupt
    assert shown(console) == ["round 1 | 1.0 s | 0.0 MB up | 0.0 MB down"]


def test_the_log_holds_everything_with_the_time_and_is_appended_to(tmp_path):
    for round in (1, 2):
        with open_display("run", 2, console=Console(quiet=True), log=tmp_path / "log.txt") as display:
            display.round_started(round, ["hk"])
            display.client_done("hk", 3.0, 0.5)
            lines = (tmp_path / "log.txt").read_text().splitlines()
            assert lines[-1].endswith(f"round {round} | client hk | 3.0 s | loss 0.500"), "written at once"
            display.round_finished(round, 3.0, 10**6, 10**6)
            display.warn("careful")
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert len(lines) == 6
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \w", line) for line in lines)
    assert lines[2].endswith(" warning | careful")


def test_only_one_process_tells(tmp_path, capsys):
    with open_display("run", 2, log=tmp_path / "log.txt", is_shown=False) as display:
        display.say("hello")
        display.warn("careful")
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())
    assert display.warnings == ["careful"]


def test_secrets_and_control_characters_reach_neither_screen_nor_log(tmp_path):
    console = plain(40)
    with open_display("run", 2, console=console, log=tmp_path / "log.txt") as display:
        display.say("logger: api_key=S1 https://me:S2@host/x --token S3")
        display.warn("db_password='S4 S4' failed")
        display.scored(1, {"[red]\x1b[2Jsite": 0.5})
    for text in (console.file.getvalue(), (tmp_path / "log.txt").read_text(), *display.warnings):
        assert not re.search(r"S\d|\x1b", text)
    assert "worst site [red]�[2Jsite 0.500" in console.file.getvalue(), "a name is no markup"


@pytest.mark.parametrize(("width", "height"), [(40, 10), (20, 3), (100, 30), (200, 80)])
def test_the_screen_fits_the_terminal(width, height):
    console = screen(width, height)
    display = open_display("a run with a rather long name", 30, console=console)
    sites = [f"hospital number {index}" for index in range(64)]
    for state in range(3):
        text = console.render_lines(display, console.options)
        assert len(text) <= height - 1
        assert all(sum(segment.cell_length for segment in line) <= width for line in text)
        if state == 0:
            display.round_started(1, sites)
        display.client_done(sites[0], 3.0, 0.5)
        display.round_finished(1, 4.0, 10**8, 10**8)
        display.scored(1, {site: (index + 1) / 100 for index, site in enumerate(sites)})
        display.warnings.append("a warning that is too long for the line of a small terminal" * 2)
    text = "\n".join("".join(segment.text for segment in line) for line in text)
    if height >= 10:
        assert "worst site" in text and ("more" in text or height > 70)
    if width >= 100:
        assert text.index("hospital number 0") < text.index("hospital number 1"), "worst first"
        assert "round 1/30" in text and "MB up" in text and "left" in text


def test_time_left_follows_the_rounds_of_this_session(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    display = open_display("run", 30, console=plain())
    assert display._seconds_left(now[0]) is None
    display.round_started(21, ["a", "b"])
    assert display._seconds_left(now[0]) is None
    now[0] += 5
    display.client_done("a", 5.0, 0.1)
    assert display._seconds_left(now[0]) == pytest.approx(10 * 10 - 5)
    now[0] += 7
    display.round_finished(21, 10.0, 0, 0)
    assert display._seconds_left(now[0]) == pytest.approx(9 * 12)
    display.round_started(22, ["a", "b"])
    now[0] += 4
    assert display._seconds_left(now[0]) == pytest.approx(9 * 12 - 4)


def test_ctrl_c_gives_the_cursor_back(tmp_path):
    pty = pytest.importorskip("pty", reason="needs a pseudo-terminal")
    program = """if True:
        import sys, time
        from fedlit.display import open_display
        try:
            with open_display("run", 3) as display:
                display.round_started(1, ["hk", "mg"])
                time.sleep(30)
        except KeyboardInterrupt:
            sys.exit(130)
    """
    main, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "40", "LINES": "10"}
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=child,
        stdout=child,
        stderr=child,
        env=environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores Ctrl-C
    )
    os.close(child)
    seen, asked, deadline = b"", False, time.monotonic() + 300
    while time.monotonic() < deadline:
        if not select.select([main], [], [], 0.2)[0]:
            continue
        try:
            block = os.read(main, 4096)
        except OSError:  # Linux says so when the other end is closed
            break
        seen += block
        if not block:
            break
        if b"sites 0/2" in seen and not asked:
            asked = True
            process.send_signal(signal.SIGINT)
    os.close(main)
    assert process.wait(timeout=600) == 130, seen
    assert b"\x1b[?25l" in seen, "the cursor is hidden while the screen lives"
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"\x1b[?25l")
    assert b"Traceback" not in seen
