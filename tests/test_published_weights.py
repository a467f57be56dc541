"""Published weights: the list, and a file that arrives whole or not at all."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from click.testing import CliRunner
from rich.console import Console

from fedlit import published_weights
from fedlit.__main__ import cli
from fedlit.errors import BadInput
from fedlit.published_weights import PUBLISHED, Published, fetch, show

CONTENT = bytes(range(256)) * 8192  # 2 MiB, two pieces


class Host(BaseHTTPRequestHandler):
    asked: list[str] = []  # noqa: RUF012 (the server makes one object of the class for each request)

    def do_GET(self):
        self.asked.append(self.path)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/file.pth")  # an address that no machine has
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if self.path == "/page" else "application/octet-stream")
        if self.path != "/silent":
            self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        self.wfile.write(CONTENT[: len(CONTENT) // 2] if self.path == "/short" else CONTENT)

    def log_message(self, *_):
        """Nothing: the tests' output is not the server's."""


@pytest.fixture
def host(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    Host.asked.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def listed(url: str, **changes) -> list[Published]:
    return [replace(PUBLISHED[0], name="toy", url=url, file="toy.pth", md5_begins=None, **changes)]


def console() -> Console:
    return Console(file=io.StringIO(), width=70)


def test_a_file_arrives_whole_and_is_not_fetched_twice(host, tmp_path):
    screen, again = console(), console()
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    weights = listed(f"{host}/file", sha256=sha256)
    path = fetch("toy", tmp_path / "new" / "folder", screen, weights)
    assert path.read_bytes() == CONTENT and list(path.parent.iterdir()) == [path]
    lines = screen.file.getvalue().splitlines()
    assert lines[0] == f"fetching {host}/file, 2.1 MB"
    assert f"toy.pth: 2.1 MB, sha256 {sha256}" in lines
    assert lines[-1] == f"use it with network.size=vit_b network.checkpoint={path}"

    assert fetch("toy", path.parent, again, weights) == path
    assert again.file.getvalue().startswith(f"{path} is there already and was not fetched again\n")
    assert again.file.getvalue().splitlines()[1:] == lines[1:]
    assert Host.asked == ["/file"]


def test_a_terminal_sees_a_bar(host, tmp_path):
    screen = Console(file=io.StringIO(), width=70, force_terminal=True)
    fetch("toy", tmp_path, screen, listed(f"{host}/file"))
    assert "━" in screen.file.getvalue() and "2.1/2.1 MB" in screen.file.getvalue()


def test_a_server_that_does_not_say_the_size_is_said_so(host, tmp_path):
    screen = console()
    assert fetch("toy", tmp_path, screen, listed(f"{host}/silent")).read_bytes() == CONTENT
    assert "of a size that the server does not say" in screen.file.getvalue()


@pytest.mark.parametrize(
    ("place", "stated", "reason"),
    [
        ("/short", {}, "it broke off: 1048576 of 2097152 bytes came"),
        ("/gone", {}, "the server answered 404 Not Found"),
        ("/page", {}, "the server sent a web page and not the file"),
        ("/moved", {}, "it is at http://192.0.2.1/file.pth, and only https is trusted"),
        ("/file", {"sha256": "0" * 64}, "of what came, its sha256 is "),
    ],
)
def test_what_is_not_the_file_leaves_nothing(host, tmp_path, place, stated, reason):
    with pytest.raises(BadInput) as refused:
        fetch("toy", tmp_path, console(), listed(host + place, **stated))
    message = str(refused.value)
    assert message.startswith(f"{host}{place}: could not be fetched: {reason}")
    assert message.endswith(
        f"save it as {tmp_path}/toy.pth and set network.size=vit_b network.checkpoint={tmp_path}/toy.pth"
    )
    assert list(tmp_path.iterdir()) == []


def test_the_digits_in_the_name_of_metas_files_are_checked(host, tmp_path):
    md5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()
    right = [replace(PUBLISHED[0], url=f"{host}/file", md5_begins=md5[:6])]
    path = fetch("sam_vit_b", tmp_path, console(), right)
    wrong = f"its MD5 begins {md5[:6]}, not 01ec64: incomplete, or another file"
    with pytest.raises(BadInput, match=f"there already, but {wrong}; delete it"):
        fetch("sam_vit_b", tmp_path, console())
    assert path.read_bytes() == CONTENT  # it is the user's
    path.unlink()
    with pytest.raises(BadInput, match=wrong):
        fetch("sam_vit_b", tmp_path, console(), [replace(PUBLISHED[0], url=f"{host}/file")])
    assert list(tmp_path.iterdir()) == []


def test_a_hash_that_cannot_be_checked_is_said(host, tmp_path):
    screen = console()
    fetch("toy", tmp_path, screen, listed(f"{host}/file", unchecked_hash="xxh128 40"))
    assert "its publisher states xxh128 40, which was not checked" in screen.file.getvalue()


def test_without_a_network_the_address_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("no_proxy", "*")
    with pytest.raises(
        BadInput, match=r"http://127\.0\.0\.1:9/x: could not be fetched: .*refused.*; run the .* or take"
    ):
        fetch("toy", tmp_path / "none", console(), listed("http://127.0.0.1:9/x"))
    assert not (tmp_path / "none").exists()


def test_only_https_is_trusted(tmp_path):
    for url in ("http://192.0.2.1/x", "ftp://127.0.0.1/x", f"file://{tmp_path}/x"):
        with pytest.raises(BadInput, match="only https is trusted"):
            fetch("toy", tmp_path, console(), listed(url))


def test_a_web_page_is_for_a_person(tmp_path):
    with pytest.raises(BadInput) as refused:
        fetch("medsam_vit_b", tmp_path, console())
    assert "has a web page and no direct link; take medsam_vit_b.pth from https://drive.google" in str(refused.value)


def test_every_entry_is_complete_and_no_hash_is_made_up():
    assert [each.name for each in PUBLISHED] == [
        "sam_vit_b",
        "sam_vit_l",
        "sam_vit_h",
        "medsam_vit_b",
        "medicosam_vit_b",
    ]
    for each in PUBLISHED:
        assert each.size in ("vit_b", "vit_l", "vit_h")
        assert each.url.startswith("https://") and each.source.startswith("https://")
        assert each.licence in ("Apache-2.0", "MIT") and each.note
        assert each.url.endswith(each.file) or each.source != PUBLISHED[0].source
    assert [each.sha256 for each in PUBLISHED] == [None] * 5  # no publisher states one


@pytest.mark.parametrize("width", [70, 200])
def test_the_list_keeps_addresses_whole(width):
    screen = Console(file=io.StringIO(), width=width)
    show(screen)
    lines = screen.file.getvalue().splitlines()
    assert lines[1].split() == ["sam_vit_b", "vit_b", "375", "Apache-2.0", "MD5", "begins", "01ec64"]
    assert lines[4].split() == ["medsam_vit_b", "vit_b", "375", "Apache-2.0", "none", "stated"]
    for each in PUBLISHED:
        assert any(line.startswith(f"{each.name}: {each.url}") for line in lines)


def test_the_command(monkeypatch, tmp_path, host):
    assert CliRunner().invoke(cli, ["weights"]).output.startswith("name ")
    result = CliRunner().invoke(cli, ["weights", "--out", str(tmp_path)])
    assert result.exit_code == 2 and "--out needs NAME" in result.output
    with pytest.raises(BadInput, match="sam: no published weights of that name; there are sam_vit_b, sam_vit_l"):
        CliRunner().invoke(cli, ["weights", "sam"], catch_exceptions=False)
    monkeypatch.setattr(published_weights.fetch, "__defaults__", (listed(f"{host}/file"),))
    result = CliRunner().invoke(cli, ["weights", "toy", "--out", str(tmp_path / "a b")])
    assert (tmp_path / "a b" / "toy.pth").read_bytes() == CONTENT
    assert result.output.endswith(f"network.size=vit_b 'network.checkpoint={tmp_path}/a b/toy.pth'\n")
