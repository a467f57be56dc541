"""Rounds of given updates, and all that the processes send each other meanwhile.

`python -m torch.distributed.run --nproc_per_node=2 tests/eavesdropped.py OUT`; see `test_transforms_secure`.
"""

from __future__ import annotations

import gc
import pickle
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from fedlit.aggregation import Mean
from fedlit.transforms import DifferentialPrivacy, LowPrecision, SecureAggregation, TopK
from fedlit.weights import save
from tests.conftest import make_world
from tests.rounds import START, drawn, make_fleet, play

NAMES = tuple("abcde")
BROKEN = {name: value * torch.nan for name, value in START.items()}


def plain(world):
    return play(make_fleet(NAMES[:2], world=world), Mean(by="uniform"), drawn(NAMES[:2])).weights


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
    transforms = [DifferentialPrivacy(clip=0.5, secure_noise=secure_noise), SecureAggregation()]
    return play(make_fleet(NAMES, world=world, transforms=transforms), Mean(by="uniform"), drawn(NAMES)).weights


def private_in_earnest(world):
    return private(world, secure_noise=True)


SCENARIOS = (plain, masked, masked_without_one, masked_in_a_team, compressed, private)


def eavesdrop(heard: list[bytes]) -> None:
    """Note what the functions of torch.distributed are given to send."""
    kinds = {
        "all_gather_object": lambda values, value, **_: [pickle.dumps(value)],
        "all_reduce": lambda values, *_, **__: [of(values)],
        "broadcast": lambda values, *_, **__: [of(values)],
        "batch_isend_irecv": lambda messages: [of(each.tensor) for each in messages if each.op is dist.isend],
    }

    def listened(name, noted):
        function = getattr(dist, name)

        def wrapped(*args, **kwargs):
            heard.extend(noted(*args, **kwargs))
            return function(*args, **kwargs)

        setattr(dist, name, wrapped)

    for name, noted in kinds.items():
        listened(name, noted)


def of(values: torch.Tensor) -> bytes:
    return values.detach().cpu().contiguous().numpy().tobytes()


def main(out: Path) -> None:
    torch.set_num_threads(1)
    world, heard = make_world(), []
    with world:
        eavesdrop(heard)
        for scenario in (*SCENARIOS, private_in_earnest):
            heard.clear()
            save(out / f"{scenario.__name__}-{world.place}.safetensors", scenario(world))
            (out / f"{scenario.__name__}-{world.place}.heard").write_bytes(pickle.dumps(heard))


if __name__ == "__main__":
    gc.freeze()  # what is imported is no garbage
    main(Path(sys.argv[1]))
    gc.unfreeze()
