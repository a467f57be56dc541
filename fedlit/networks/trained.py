"""What was trained of a network, saved and loaded alone: adapters are megabytes where the network is hundreds."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from fedlit.errors import BadInput
from fedlit.weights import load, save, sha256


def frozen(network: nn.Module) -> dict[str, Tensor]:
    """The entries that training leaves as they are."""
    return {name: value for name, value in network.named_parameters() if not value.requires_grad}


def trained(network: nn.Module) -> dict[str, Tensor]:
    """All other entries of the state dict."""
    others = frozen(network)
    return {name: value for name, value in network.state_dict().items() if name not in others}


def save_trained(path: Path, network: nn.Module) -> None:
    """Write what is trained as safetensors, with a hash of what it was trained beside."""
    save(path, trained(network), {"frozen": sha256(frozen(network))})


def load_trained(path: str | Path, network: nn.Module) -> None:
    """Put what `save_trained` wrote into a network that is trained in the same parts and frozen in the same weights.

    Raises:
        BadInput: the file is damaged, or of another network or other frozen weights.
    """
    values, header = load(Path(path))
    wanted = {name: value.shape for name, value in trained(network).items()}
    found = {name: value.shape for name, value in values.items()}
    if found != wanted:
        odd = sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))
        raise BadInput(
            f"{path}: {len(odd)} of its entries do not fit what is trained here, such as {odd[0]}; use the "
            "network.size, network.tuning and classes that it was saved with"
        )
    if header.get("frozen") != sha256(frozen(network)):
        raise BadInput(
            f"{path}: it was trained beside other frozen weights than those here; use the network.checkpoint it was "
            "trained with, and without one the seed"
        )
    network.load_state_dict(values, strict=False)
