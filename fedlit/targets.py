"""Which code a configuration may name: what `_target_` finds, and what it is refused."""

from __future__ import annotations

import importlib
import inspect
import os
from collections.abc import Callable
from dataclasses import is_dataclass
from types import ModuleType
from typing import Any

from fedlit.errors import BadInput
from fedlit.names import suggestion

PACKAGES = frozenset(
    {
        *("fedlit", "torch", "torchvision", "torchmetrics", "lightning", "monai", "albumentations"),
        *("segment_anything", "segmentation_models_pytorch", "timm", "transformers"),
    }
)
COMPONENTS = frozenset(
    {
        "torch.nn.modules.module.Module",
        "torch.optim.optimizer.Optimizer",
        "lightning.fabric.loggers.logger.Logger",
        "albumentations.core.transforms_interface.BasicTransform",
        "albumentations.core.composition.BaseCompose",
    }
)


def locate(target: str) -> Callable[..., Any]:
    """The class or function that a dotted path names.

    A configuration file may come from a stranger, so it may only name components. From the packages in PACKAGES these
    are dataclasses, networks and losses, optimizers, loggers, albumentations, and the functions of `fedlit.networks`:
    neither `torch.load` nor `torch.hub.load` nor `torch.os.system` can be called. A package named in the environment
    variable FEDLIT_TRUSTED_PACKAGES (comma separated; no file can set it) gives all its public classes and functions.
    Any other package is not even imported. What a component reads or writes as its arguments say is its own affair.

    Raises:
        BadInput: not allowed, not installed, or no such name.
    """
    package, *names = target.split(".")
    trusted = {name.strip() for name in os.environ.get("FEDLIT_TRUSTED_PACKAGES", "").split(",")}
    if not names or not all(part.isidentifier() and not part.startswith("_") for part in (package, *names)):
        raise BadInput(f"_target_ {target!r} is no import path of a public class, such as torch.nn.BCEWithLogitsLoss")
    if package not in PACKAGES | trusted:
        raise BadInput(
            f"_target_ {target}: a configuration may not call code of the package {package}, only of "
            f"{', '.join(sorted(PACKAGES))}; if you trust it, set FEDLIT_TRUSTED_PACKAGES={package} in the environment"
        )
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # albumentations asks the network at import otherwise
    found = _import(package, target)
    for name in names:
        if isinstance(found, ModuleType) and not hasattr(found, name):
            found = _import(f"{found.__name__}.{name}", target, parent=found)
        elif hasattr(found, name):
            found = getattr(found, name)
        else:
            raise BadInput(f"_target_ {target}: {found.__qualname__} has no {name}")
        if isinstance(found, ModuleType) and found.__name__.split(".")[0] != package:
            raise BadInput(f"_target_ {target} leads out of {package}, into {found.__name__}; name a component")
    if callable(found) and (package in trusted or _is_component(found)):
        return found
    raise BadInput(
        f"_target_ {target} is no component: networks and losses (torch.nn.Module), optimizers, loggers, dataclasses, "
        "albumentations and the functions of fedlit.networks are; if you trust all of the package, set "
        f"FEDLIT_TRUSTED_PACKAGES={package} in the environment"
    )


def _import(module: str, target: str, parent: ModuleType | None = None) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if parent is not None and error.name in (module, parent.__name__):  # the latter where the parent is no package
            name = module.split(".")[-1]
            known = [each for each in getattr(parent, "__all__", dir(parent)) if not each.startswith("_")]
            raise BadInput(f"_target_ {target}: {parent.__name__} has no {name}{suggestion(name, known)}") from None
        raise BadInput(f"_target_ {target} needs the package {error.name}, which is not installed") from None
    except Exception as error:  # a module may do anything while it is imported
        raise BadInput(f"_target_ {target} cannot be imported: {type(error).__name__}: {error}") from error


def _is_component(found: Any) -> bool:
    if not isinstance(found, type):
        return inspect.isfunction(found) and f"{found.__module__}.".startswith("fedlit.networks.")
    if found.__module__.split(".")[0] not in PACKAGES:
        return False
    return is_dataclass(found) or any(f"{base.__module__}.{base.__qualname__}" in COMPONENTS for base in found.__mro__)
