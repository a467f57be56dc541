"""What the frozen part of a network makes of a picture, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fedlit.errors import BadInput
from fedlit.storage import cache_folder, writing_to
from fedlit.weights import load, save, sha256

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
log = logging.getLogger(__name__)


class FeatureCache:
    """A pure function of pictures, remembered on disk: memory-mapped files `features/KEY/PICTURE.safetensors`.

    KEY stands for the weights and the numerics, PICTURE for the content as the network gets it: another checkpoint, or
    a picture that augmentation has changed, is another file. Pictures are computed one by one, so that what is kept
    does not depend on the batch. It holds patients' data: only its owner may enter the folder.

    Args:
        dtype: in which features are kept, `fp32` or `bf16`; those just computed are rounded alike.
        state: tells all tensors that the function depends on.
        most_bytes: of the files of one KEY; with more, further pictures are computed every time, and a warning says so.
        root: instead of the cache that pictures are kept in.
    """

    def __init__(
        self,
        dtype: str,
        state: Callable[[], Mapping[str, Tensor]],
        *,
        most_bytes: float = 50e9,
        root: Path | None = None,
    ):
        if dtype not in DTYPES:
            raise ValueError(f"cache={dtype!r} is not allowed; use one of {', '.join(DTYPES)}, or null")
        self.dtype, self.most_bytes = DTYPES[dtype], most_bytes
        self._state, self._root = state, root or cache_folder()
        self._seen: list[tuple[int, int]] = []  # where the state lay, and how often it had been changed
        self._weights = ""
        self._folder: Path | None = None
        self._num_bytes = 0

    def __call__(self, compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """compute(images [B, ...]), read from the disk where it is there.

        Raises:
            BadInput: the cache cannot be written.
        """
        self._open(self._key(images.device))
        features = torch.stack([self._features(compute, image) for image in images])
        return features.to(images.device, images.dtype)

    def file(self, compute: Callable[[Tensor], Tensor], image: Tensor, also: str = "") -> Path:
        """The file that holds compute(image [1, ...]); what else than the picture it depends on is given as text."""
        self._open(self._key(image.device))
        path = self._path(image, also)
        if not path.exists():
            self._keep(path, self._computed(compute, image))
        return path

    def _path(self, image: Tensor, also: str = "") -> Path:
        assert self._folder is not None
        return self._folder / f"{content(image, also)}.safetensors"

    def _features(self, compute: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        path = self._path(image)
        try:
            if path.exists():
                return load(path)[0]["features"]
        except BadInput as error:
            log.warning("%s: computing it again", error)
        features = self._computed(compute, image)
        self._keep(path, features)
        return features

    def _computed(self, compute: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
        with torch.no_grad():
            return compute(image[None])[0].to("cpu", self.dtype)

    def _keep(self, path: Path, features: Tensor) -> None:
        if self._num_bytes > self.most_bytes:
            return
        with writing_to(self._root):
            save(path, {"features": features})
        self._num_bytes += path.stat().st_size
        if self._num_bytes > self.most_bytes:
            log.warning(
                "%s is full (%.0f GB): further pictures are computed every time", path.parent, self.most_bytes / 1e9
            )

    def _open(self, key: str) -> None:
        folder = self._root / "features" / key
        if folder == self._folder:
            return
        with writing_to(self._root):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = folder
        self._num_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))

    def _key(self, device: torch.device) -> str:
        """What the function depends on, as text; the weights are hashed again only after a change."""
        state = self._state()
        seen = [(value.data_ptr(), value._version) for value in state.values()]
        if seen != self._seen:
            self._seen, self._weights = seen, sha256(state)
        kind = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else "true"
        text = f"{self._weights} {device.type} {kind} {self.dtype}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def content(image: Tensor, also: str = "") -> str:
    """A hash of a picture's bits, shape and dtype, and of a text."""
    return sha256({f"image {also}": image})[:32]
