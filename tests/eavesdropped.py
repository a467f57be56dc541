"""Rounds of given updates, and all that the processes send each other meanwhile.

`python -m torch.distributed.run --nproc_per_node=2 tests/eavesdropped.py OUT`; see `test_transforms_secure`.
"""

from __future__ import annotations

import gc
import pickle
import sys
from functools import wraps
from pathlib import Path
from types import FunctionType

import pytest
import torch
import torch.distributed as dist
from torch.distributed import distributed_c10d

from fedlit.aggregation import Mean
from fedlit.transforms import DifferentialPrivacy, LowPrecision, SecureAggregation, TopK
from fedlit.weights import save
from tests.conftest import make_world
from tests.rounds import START, drawn, make_fleet, play

NAMES = tuple("abcde")
BROKEN = {name: value * torch.nan for name, value in START.items()}


def plain(world):
    return play(make_fleet(NAMES[:2], world=world), Mean(by="uniform"), drawn(NAMES[:2])).weights


def summed(world):
    """Each process sends the sum over its clients."""
    return play(make_fleet(NAMES, world=world), Mean(by="uniform"), drawn(NAMES)).weights


def masked(world):
    fleet = make_fleet(NAMES, world=world, transforms=[SecureAggregation()])
    return play(fleet, Mean(), drawn(NAMES)).weights


def masked_without_one(world):
    fleet = make_fleet(NAMES, world=world, transforms=[SecureAggregation(threshold=3)], on_client_error="drop")
    return play(fleet, Mean(), {**drawn(NAMES), "b": BROKEN}).weights


def compressed(world):
    fleet = make_fleet(NAMES, world=world, transforms=[TopK(share=0.5), LowPrecision()])
    return play(fleet, Mean(), drawn(NAMES)).weights


def masked_in_a_team(world):
    """All processes train each client; one of them sends."""
    fleet = make_fleet(NAMES, world=world, transforms=[SecureAggregation()], processes_per_client=world.size)
    return play(fleet, Mean(), drawn(NAMES)).weights


def private(world, secure_noise=False):
    """Nobody is clipped, so that what is sent would be known again."""
    transforms = [DifferentialPrivacy(clip=1e6, secure_noise=secure_noise), SecureAggregation()]
    return play(make_fleet(NAMES, world=world, transforms=transforms), Mean(by="uniform"), drawn(NAMES)).weights


def private_in_earnest(world):
    return private(world, secure_noise=True)


SCENARIOS = (plain, summed, masked, masked_without_one, masked_in_a_team, compressed, private)


HEARD = {
    "all_gather_object": lambda values, value, **_: [pickle.dumps(value)],
    "all_reduce": lambda values, *_, **__: [of(values)],
    "broadcast": lambda values, *_, **__: [of(values)],
    "batch_isend_irecv": lambda messages: [of(each.tensor) for each in messages if each.op is dist.isend],
}
"""What the functions of torch.distributed that we hear are given to send; all others that send must not be used."""

RECEIVED = {
    "all_gather_object": lambda values, value, **_: [pickle.dumps(each) for each in values],
    "all_reduce": lambda values, *_, **__: [of(values)],
    "broadcast": lambda values, *_, **__: [of(values)],
    "batch_isend_irecv": lambda messages: [],  # still under way; the other process is heard to send it
}
"""What they have given back."""

HARMLESS = ("get_", "is_", "init_", "new_", "destroy_", "set_")
"""How functions begin that send nothing of a round."""


class Unheard(Exception):
    """A message that nobody could hear."""


def eavesdrop(heard: list[bytes]) -> None:
    """Note what the functions of torch.distributed send and receive, and let those fail that we do not hear.

    They may call each other.
    """
    under_way: list[str] = []

    def listened(name, function):
        @wraps(function)
        def wrapped(*args, **kwargs):
            if not under_way:
                if name not in HEARD:
                    raise Unheard(f"torch.distributed.{name} is not heard: add it to HEARD")
                heard.extend(HEARD[name](*args, **kwargs))
            under_way.append(name)
            try:
                found = function(*args, **kwargs)
            finally:
                under_way.pop()
            if not under_way:
                heard.extend(RECEIVED[name](*args, **kwargs))
            return found

        return wrapped

    functions = {name: value for name, value in vars(dist).items() if type(value) is FunctionType}
    for name, function in functions.items():
        if not name.startswith(("_", *HARMLESS)):
            other = listened(name, function)
            for module in (dist, distributed_c10d):
                if vars(module).get(name) is function:
                    setattr(module, name, other)


def check_that_others_fail() -> None:
    """All that send tensors or objects by other names, in torch as it is installed."""
    words = ("gather", "reduce", "scatter", "broadcast", "send", "recv", "all_to_all")
    sending = [name for name in vars(dist) if not name.startswith("_") and any(word in name for word in words)]
    others = [name for name in sending if type(vars(dist)[name]) is FunctionType and name not in HEARD]
    assert len(others) > 15 and {"send", "all_gather", "reduce", "scatter", "broadcast_object_list"} <= {*others}
    for name in others:
        with pytest.raises(Unheard, match=f"{name} is not heard"):
            getattr(dist, name)(torch.zeros(1))


def of(values: torch.Tensor) -> bytes:
    return values.detach().cpu().contiguous().numpy().tobytes()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    world, heard = make_world(), []
    with world:
        eavesdrop(heard)
        check_that_others_fail()
        for scenario in (*SCENARIOS, private_in_earnest):
            heard.clear()
            save(out / f"{scenario.__name__}-{world.place}.safetensors", scenario(world))
            (out / f"{scenario.__name__}-{world.place}.heard").write_bytes(pickle.dumps(heard))


if __name__ == "__main__":
    gc.freeze()  # what is imported is no garbage
    main(Path(sys.argv[1]))
    gc.unfreeze()
