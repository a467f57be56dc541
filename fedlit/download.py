"""One file from the network by https: it arrives whole and as it should be, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.text import Text

from fedlit import __version__
from fedlit.errors import BadInput
from fedlit.files import replacing
from fedlit.units import megabytes

CHUNK = 1 << 20  # bytes
TIMEOUT = 60  # seconds without a byte
THIS_MACHINE = ("127.0.0.1", "localhost")


def download(url: str, path: Path, console: Console, *, problem: Callable[[Path], str], way_out: str) -> None:
    """Write what `url` holds to `path`, with a progress bar on a terminal; the folder is made where it is missing.

    Args:
        url: https, or http on this machine; so is every address it leads to.
        problem: what is wrong with the bytes in a file, or nothing; asked before they take their place.
        way_out: what the user can do without this, for the messages.

    Raises:
        BadInput: no network, another answer than the file, not all of it, or a problem; nothing is left at `path`.
    """
    try:
        with _open(url) as response:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                _receive(url, response, file, console)
                if found := problem(Path(file.name)):
                    raise _Failed(f"of what came, {found}")
    except _Failed as failed:
        raise BadInput(f"{url}: could not be fetched: {failed}; run the command again, or {way_out}") from None


class _Failed(Exception):
    """Why a file did not come."""


def _receive(url: str, response: HTTPResponse, file: BinaryIO, console: Console) -> None:
    stated = response.headers.get("Content-Length")
    length = int(stated) if stated else None
    amount = megabytes(length) if length else "of a size that the server does not say"
    console.print(Text(f"fetching {url}, {amount}"), soft_wrap=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=length)
        for piece in _pieces(response):
            file.write(piece)
            progress.advance(task, len(piece))
    file.flush()
    if length is not None and file.tell() != length:
        raise _Failed(f"it broke off: {file.tell()} of {length} bytes came")


class _CheckedRedirects(HTTPRedirectHandler):
    def redirect_request(self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: str) -> Request | None:
        try:
            _check_address(newurl)
        except _Failed:
            fp.close()
            raise
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(url: str) -> HTTPResponse:
    _check_address(url)
    request = Request(url, headers={"User-Agent": f"fedlit/{__version__}"})
    try:
        response = build_opener(_CheckedRedirects).open(request, timeout=TIMEOUT)
    except HTTPError as error:
        error.close()
        raise _Failed(f"the server answered {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        raise _Failed(_reason(error)) from None
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise _Failed("the server sent a web page and not the file")
    return response


def _check_address(url: str) -> None:
    address = urlsplit(url)
    if address.scheme != "https" and not (address.scheme == "http" and address.hostname in THIS_MACHINE):
        raise _Failed(f"it is at {url}, and only https is trusted")


def _pieces(response: HTTPResponse) -> Iterator[bytes]:
    try:
        while piece := response.read(CHUNK):
            yield piece
    except (OSError, HTTPException) as error:
        raise _Failed(f"it broke off: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    return str(error.reason if isinstance(error, URLError) else error) or type(error).__name__
