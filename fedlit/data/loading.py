"""Batches of a client's epoch, read in this process or by one pool of workers for all sites of the process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fedlit.data.pictures import Pictures
from fedlit.data.request import Request
from fedlit.errors import BadInput


class Loader:
    """Reads batches ahead with `num_workers` processes, started once, at the first use; 0 reads them here.

    The batches and their order do not depend on `num_workers`. Only one pass can be under way.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self.num_workers = num_workers
        self._pass: Iterable[Request] = ()
        self._num_passes = 0
        self._pool: DataLoader | None = None

    def batches(
        self, pictures: Pictures, requests: Iterable[tuple[Sequence[int], Sequence[int] | None]]
    ) -> Iterator[dict[str, Tensor]]:
        """`pictures.batch(indices, seeds)` of each request (indices, seeds), in order."""
        wanted = (pictures.request(indices, seeds) for indices, seeds in requests)
        if self.num_workers == 0:
            for request in wanted:
                yield request()
            return
        self._num_passes += 1
        number = self._num_passes
        self._pass = (request.portable() for request in wanted)
        for batch in self._workers():
            assert number == self._num_passes, "a second pass was begun before this one ended"
            if isinstance(batch, BadInput):
                raise batch
            yield batch

    def close(self) -> None:
        """End the workers."""
        self._pool = None

    def __iter__(self) -> Iterator[Request]:
        """The pass under way: what the workers' sampler goes through."""
        return iter(self._pass)

    def _workers(self) -> DataLoader:
        if self._pool is None:
            # forkserver: forking a process whose libraries have threads can hang. An own generator: the pool draws a
            # number at each pass, and the global stream must not depend on num_workers
            self._pool = DataLoader(
                _Requests(),
                sampler=self,
                batch_size=None,
                num_workers=self.num_workers,
                persistent_workers=True,
                multiprocessing_context="forkserver",
                generator=torch.Generator(),
                worker_init_fn=_quiet,
            )
        return self._pool


class _Requests(Dataset):
    """What a worker serves: a request's own batch, or its error as a value, so that it arrives without a traceback."""

    def __getitem__(self, request: Request) -> dict[str, Tensor] | BadInput:
        try:
            return request()
        except BadInput as error:
            return error


def _quiet(_: int) -> None:
    """One thread per worker."""
    import cv2

    cv2.setNumThreads(0)
