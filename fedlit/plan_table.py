"""A plan on the terminal: who trains where, and what it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedlit.footprint import Unknown
from fedlit.plan import MOST_MODELS, Plan, together
from fedlit.provenance import printable
from fedlit.rehearsal import Exchange
from fedlit.sketch import target
from fedlit.units import duration, megabytes
from fedlit.workload import Workload

LEFT_OUT = "Not counted: working space of the device's libraries, memory lost between tensors, pictures, evaluation."
BETTER_MEASURED = "Time is of training alone, without reading pictures, sharing and evaluation; batches may be faster."


def plan_table(plan: Plan, console: Console) -> None:
    """Print a plan, folded to the width of the terminal; nothing is cut off."""
    console.print(Text(_heading(plan), style="bold"))
    if isinstance(plan.workloads, Unknown):
        console.print(Text(f"clients: {_unknown(plan.workloads)}"))
    else:
        console.print(_clients(plan, plan.workloads))
    if isinstance(plan.num_processes, Unknown):
        console.print(Text(f"homes: {_unknown(plan.num_processes)}"))
    console.print()
    facts = _table("what", "amount", "of it")
    for row in (*_parameters(plan), *_messages(plan), *_memory(plan), *_time(plan)):
        facts.add_row(*map(Text, row))
    console.print(facts)
    console.print()
    for assumption in plan.assumptions:
        console.print(Text(f"Assumed: {assumption}."))
    console.print(Text(LEFT_OUT, style="dim"))
    if isinstance(plan.seconds, float):
        console.print(Text(BETTER_MEASURED, style="dim"))


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in titles:
        is_number = title in ("pictures", "train", "steps", "amount")
        table.add_column(title, justify="right" if is_number else "left", overflow="fold")
    return table


def _heading(plan: Plan) -> str:
    config = plan.config
    processes = "an unknown number of" if isinstance(plan.num_processes, Unknown) else plan.num_processes
    parts = [
        printable(config.name),
        target(config.algorithm),
        target(config.network),
        f"{config.num_rounds} rounds",
        f"{processes} process{'' if processes == 1 else 'es'}",
        *([f"{plan.team} for each client"] if plan.team > 1 else []),
        config.precision,
    ]
    return " | ".join(parts)


def _clients(plan: Plan, workloads: Sequence[Workload]) -> Table:
    table = _table("site", "role", "pictures", "train", "steps", "home")
    for each in workloads:
        steps = str(each.num_steps) if each.is_client else "-"
        train = str(each.num_train) if each.role != "unseen" else "-"
        row = (printable(each.name), each.role, str(each.num_pictures), train, steps, _home(plan, each.home))
        table.add_row(*map(Text, row))
    return table


def _home(plan: Plan, home: int | None) -> str:
    if home is None:
        return "-"
    first = home * plan.team
    return f"process {first}" if plan.team == 1 else f"processes {first} to {first + plan.team - 1}"


def _parameters(plan: Plan) -> Iterator[tuple[str, str, str]]:
    sent = plan.exchanges if isinstance(plan.exchanges, Unknown) else plan.exchanges[-1].num_sent
    for what, value, note in (
        ("parameters", plan.total, "of the network"),
        ("  trained", plan.trained, ""),
        ("  sent", sent, "by a client in a round, float buffers included"),
    ):
        yield (what, "unknown", value.reason) if isinstance(value, Unknown) else (what, _millions(value), note)


def _messages(plan: Plan) -> Iterator[tuple[str, str, str]]:
    if isinstance(plan.exchanges, Unknown):
        yield "messages", "unknown", plan.exchanges.reason
        return
    last = plan.exchanges[-1]
    directions: tuple[tuple[str, Callable[[Exchange], int], Callable[[Exchange], int]], ...] = (
        ("up", lambda each: each.bytes_update, lambda each: each.bytes_up),
        ("down", lambda each: each.bytes_broadcast, lambda each: each.bytes_down),
    )
    for direction, of_client, of_all in directions:
        are_unknown = isinstance(plan.workloads, Unknown)
        amount = of_client if are_unknown else of_all
        total = plan.in_all_rounds(amount)
        assert not isinstance(total, Unknown)
        count = f"{last.num_clients} of {len(plan.clients)} client{'s' * (len(plan.clients) > 1)}"
        each = f"{count}, {megabytes(of_client(last))} each"
        yield (
            f"{direction} per round",
            megabytes(amount(last)),
            "for each client; how many there are is unknown" if are_unknown else each,
        )
        yield f"{direction} in total", megabytes(total), f"{plan.config.num_rounds} rounds"


def _memory(plan: Plan) -> Iterator[tuple[str, str, str]]:
    notes = {
        "optimizer": target(plan.config.optimizer),
        "activations": f"{plan.batch} picture{'s' * (plan.batch > 1)} at once",
        "gradients on their way": "between the processes of a client",
        "mean of updates": f"the server's copies: at most {MOST_MODELS} updates",
    }
    if not isinstance(plan.size, Unknown):
        notes["activations"] += f" of {plan.size[0]} x {plan.size[1]}"
    known = sum(value for value in plan.memory.values() if not isinstance(value, Unknown))
    whole = together(plan.memory)
    if isinstance(whole, Unknown):
        yield "memory per device", f"{megabytes(known)} +", "and what is unknown"
    else:
        yield "memory per device", megabytes(whole), "of each process, estimated"
    for what, value in plan.memory.items():
        if isinstance(value, Unknown):
            yield f"  {what}", "unknown", value.reason
        else:
            yield f"  {what}", megabytes(value), notes.get(what, "")


def _time(plan: Plan) -> Iterator[tuple[str, str, str]]:
    if isinstance(plan.seconds, Unknown):
        yield "time per round", "unknown", plan.seconds.reason
    elif plan.seconds is not None:
        rounds = f"{duration(plan.seconds * plan.config.num_rounds)} for {plan.config.num_rounds} rounds"
        yield "time per round", f"about {duration(plan.seconds)}", f"{rounds}, from two steps with one picture here"


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"


def _unknown(value: Unknown) -> str:
    return f"unknown ({value.reason})"
