"""albumentations behind one file, with addressed seeds: the same seed gives the same picture in any process."""

from __future__ import annotations

import functools
import json
import os
import random
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedlit.errors import BadInput

REFUSED = ("Normalize", "ToFloat", "FromFloat", "ToTensorV2", "ToTensor3D")  # they leave float [H, W, C] in [0, 1]


@dataclass(frozen=True)
class Augmentation:
    """Transforms applied one after another to an image and its mask.

    Each is a node such as `{"_target_": "albumentations.HorizontalFlip", "p": 0.5}` (nested ones for OneOf) or an
    object already built. Only names below `albumentations` are built; `check()` says what is wrong with them. The
    random generators of all transforms are set anew for every picture, so a result depends on its seed alone.
    """

    transforms: tuple

    def __post_init__(self) -> None:
        object.__setattr__(self, "transforms", tuple(plain(node) for node in self.transforms))

    def __call__(self, image: np.ndarray, mask: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """image: float32 [H, W, C] in [0, 1], mask: uint8 [H, W]; both come back so, perhaps in another size, and the
        image clipped to [0, 1]. Pixels that come in from outside are background unless a transform's fill says else.

        Raises `BadInput` when a transform fails, such as a crop that is larger than the picture."""
        compose = self._compose()
        # one pair of generators for all: albumentations' own set_random_seed gives every transform the same stream, so
        # that their draws are equal, and costs 57 microseconds for five transforms instead of 10 (measured)
        compose.set_random_state(np.random.default_rng(seed), random.Random(seed))
        try:
            changed = compose(image=image, mask=mask)
        except Exception as error:  # albumentations raises its own kinds, OpenCV's and Python's
            reason = " ".join(str(error).split())
            raise BadInput(f"data.augment fails on a picture of shape {image.shape}: {reason}") from error
        return np.clip(changed["image"], 0, 1, dtype=np.float32), changed["mask"]

    def check(self) -> list[str]:
        """What is wrong with the transforms, one line each."""
        problems = []
        for position, node in enumerate(self.transforms):
            try:
                transform(node)
            except BadInput as error:
                problems.append(f"data.augment[{position}]: {error}")
        return problems

    def _compose(self) -> Any:
        if all(isinstance(node, dict) for node in self.transforms):
            return _composed(json.dumps(self.transforms, sort_keys=True))
        if "_built" not in self.__dict__:
            object.__setattr__(self, "_built", _compose_all(self.transforms))
        return self.__dict__["_built"]

    def __getstate__(self) -> dict[str, Any]:
        return {"transforms": self.transforms}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def plain(node: Any) -> Any:
    """Mappings and sequences, OmegaConf's among them, as dicts and lists; anything else as it is."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        return [plain(value) for value in node]
    return node


def transform(node: Any) -> Any:
    """The transform of a node, or the object itself. Raises `BadInput` on names outside of albumentations, unknown
    arguments (albumentations itself only warns) and values it refuses."""
    built = _build(node)
    if not isinstance(built, _albumentations().BasicTransform | _albumentations().BaseCompose):
        raise BadInput(f"{node!r} is no transform; write a node with _target_: albumentations.NAME")
    return built


def _build(node: Any) -> Any:
    if isinstance(node, list):
        return [_build(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "_target_" not in node:
        return {key: _build(value) for key, value in node.items()}
    target = node["_target_"]
    package, _, name = str(target).rpartition(".")
    library = _albumentations()
    kind = getattr(library, name, None) if package == "albumentations" else None
    if not (isinstance(kind, type) and issubclass(kind, library.BasicTransform | library.BaseCompose)):
        raise BadInput(f"_target_={target!r} is no transform; write one such as albumentations.HorizontalFlip")
    if name in REFUSED:
        raise BadInput(f"{target} does not keep an image in [0, 1]; leave it out, data.intensity sets the range")
    arguments = {key: _build(value) for key, value in node.items() if key != "_target_"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return kind(**arguments)
    except (TypeError, ValueError, UserWarning) as error:
        raise BadInput(f"{target}: {' '.join(str(error).split())}") from error


@functools.cache
def _composed(nodes: str) -> Any:
    return _compose_all(json.loads(nodes))


def _compose_all(transforms: Sequence) -> Any:
    return _albumentations().Compose([transform(node) for node in transforms])


def _albumentations() -> Any:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # else it asks the network at import
    import albumentations

    return albumentations
