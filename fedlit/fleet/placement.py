"""Which processes work for which client: a pure function of sizes, the same everywhere and for the whole run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedlit.errors import BadInput

GAIN_OF_A_TEAM = 0.8
"""Of the speed that one more process in a team could bring, what is left after gradients are exchanged."""

WORTH_IT = 1.5
"""How much sooner a round must end for `auto` to form teams: their sums are rounded otherwise than one process's."""


def pack(costs: Mapping[str, float], num_groups: int) -> dict[str, int]:
    """A home for every name: longest first, each to the group with the least to do.

    Ties are broken by name, so the order of `costs` is irrelevant.
    """
    return pack_within(costs, num_groups, {})


def pack_within(costs: Mapping[str, float], num_groups: int, allowed: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """As `pack`, where some names may only go to some groups."""
    load = [0.0] * num_groups
    homes = {}
    for name in sorted(costs, key=lambda name: (-costs[name], name)):
        homes[name] = min(allowed.get(name, range(num_groups)), key=lambda group: (load[group], group))
        load[homes[name]] += costs[name]
    return homes


def team_size(
    asked: int | str, costs: Mapping[str, float], num_processes: int, *, most: int = 1 << 30, at_once: int | None = None
) -> int:
    """How many processes work together for one client.

    `auto` is the size that ends a round first by its estimated cost, and 1 unless that is much sooner: clients side by
    side are bit for bit what they are in one process.

    Args:
        asked: a number, `world` for all processes, or `auto`.
        costs: by client.
        most: that can share a batch.
        at_once: clients of a round; None for all.

    Raises:
        BadInput: the number does not divide the processes, or is more than can share a batch.
    """
    sizes = [size for size in range(1, num_processes + 1) if num_processes % size == 0]
    if asked == "auto":
        largest = dict(sorted(costs.items(), key=lambda item: (-item[1], item[0]))[:at_once])
        seconds = {size: _seconds(largest, num_processes, size) for size in sizes if size <= most}
        best = min(seconds, key=lambda size: seconds[size])
        return best if seconds[1] >= WORTH_IT * seconds[best] else 1
    size = num_processes if asked == "world" else int(asked)
    if size not in sizes:
        allowed = ", ".join(map(str, sizes))
        raise BadInput(
            f"processes_per_client={asked}: {num_processes} processes cannot be divided so; "
            f"allowed are {allowed}, world and auto"
        )
    if size > most:
        raise BadInput(
            f"processes_per_client={asked}: a batch of {most} pictures cannot be divided over {size} processes; "
            "raise batch_size or lower processes_per_client"
        )
    return size


def _seconds(costs: Mapping[str, float], num_processes: int, size: int) -> float:
    """What a round takes with teams of this size, in units of the costs."""
    load = [0.0] * (num_processes // size)
    for name, home in pack(costs, len(load)).items():
        load[home] += costs[name]
    return max(load) / (1 + GAIN_OF_A_TEAM * (size - 1))


def desks(costs: Mapping[str, float], num_processes: int, homes: Mapping[str, int], size: int) -> dict[str, int]:
    """The process that scores each site: at a client's home, for what it remembers lies there; any for the others.

    A client that is no site (the pooled one) has its desk at home too.
    """
    allowed = {name: range(home * size, (home + 1) * size) for name, home in homes.items()}
    return pack_within({**dict.fromkeys(homes, 0.0), **costs}, num_processes, allowed)
