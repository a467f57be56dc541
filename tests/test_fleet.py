"""Where clients run: homes, failures shared, memory committed only when a round is complete."""

from dataclasses import dataclass

import pytest
import torch

from fedlit.aggregation import Mean
from fedlit.algorithms import FedAvg, Local
from fedlit.errors import ClientFailed, Stopped
from fedlit.fleet import pack
from fedlit.fleet.policy import Policy
from fedlit.weights import sha256
from tests.conftest import make_federation, make_site, run_rounds


@dataclass(frozen=True)
class Failing(FedAvg):
    """FedAvg in which some clients raise."""

    names: tuple = ()
    error: type = RuntimeError

    def local_update(self, client, broadcast):
        if client.site.name in self.names:
            raise self.error("disk on fire")
        return super().local_update(client, broadcast)


def test_homes_do_not_depend_on_order_and_are_balanced():
    costs = {"a": 173, "b": 18, "c": 12, "d": 11, "e": 9, "f": 8, "g": 4}
    homes = pack(costs, 2)
    assert homes == pack(dict(reversed(costs.items())), 2)
    load = [sum(costs[name] for name in costs if homes[name] == group) for group in (0, 1)]
    assert sorted(load) == [62, 173]
    assert set(pack(costs, 1).values()) == {0} and sorted(pack({"a": 1, "b": 1}, 4).values()) == [0, 1]


def test_a_failing_client_fails_the_round_by_name(sites):
    federation, server = make_federation(sites)
    with pytest.raises(ClientFailed, match="client 'b' failed in round 1: disk on fire") as failed:
        run_rounds(federation, server, 1, Failing(names=("b",)))
    assert "RuntimeError" in failed.value.__notes__[0] and "local_update" in failed.value.__notes__[0]


def test_a_dropped_client_counts_as_if_it_had_not_taken_part(sites):
    federation, server = make_federation(sites, on_client_error="drop")
    dropped = run_rounds(federation, server, 2, Failing(names=("b",)))
    federation, server = make_federation([sites[0], sites[2]])
    assert sha256(run_rounds(federation, server, 2).weights) == sha256(dropped.weights)


def test_drops_are_reported_and_a_round_needs_enough_updates(sites):
    federation, server = make_federation(sites, on_client_error="drop")
    round = next(federation.run(Failing(names=("a", "b")), server, 1))
    assert round.aggregate.dropped == {"a": "disk on fire", "b": "disk on fire"}
    assert [report.client for report in round.aggregate.reports] == ["c"]
    federation.fleet.policy = Policy("drop", min_updates=2)
    with pytest.raises(ClientFailed, match="client 'a' failed"):
        next(federation.run(Failing(names=("a", "b")), server, 1))


def test_all_clients_dropped_is_a_failure(sites):
    federation, server = make_federation(sites, on_client_error="drop")
    with pytest.raises(ClientFailed):
        run_rounds(federation, server, 1, Failing(names=("a", "b", "c")))


def test_an_update_that_is_not_finite_is_a_failure(sites):
    @dataclass(frozen=True)
    class Broken(FedAvg):
        def local_update(self, client, broadcast):
            update, memory = super().local_update(client, broadcast)
            update.weights["head.bias"].fill_(float("nan"))
            return update, memory

    federation, server = make_federation(sites)
    with pytest.raises(ClientFailed, match="client 'a' failed in round 1: its update holds NaN or Inf"):
        run_rounds(federation, server, 1, Broken())


def test_memory_counts_only_when_the_round_is_complete(sites):
    federation, server = make_federation(sites)
    fleet, algorithm = federation.fleet, Local()
    fleet.map(algorithm.local_update, ["a", "b"], algorithm.broadcast(server), Mean())
    assert fleet.memories == {}
    fleet.map(algorithm.local_update, ["c"], algorithm.broadcast(server), Mean())
    fleet.commit()
    assert fleet.memories.keys() == {"c"}


def test_a_failed_client_remembers_nothing_of_the_round(sites):
    @dataclass(frozen=True)
    class LateFailure(Local):
        def local_update(self, client, broadcast):
            result = super().local_update(client, broadcast)
            if client.site.name == "b" and broadcast.round == 1:
                raise RuntimeError("late")
            return result

    federation, server = make_federation(sites, on_client_error="drop")
    rounds = federation.run(LateFailure(), server, 2)
    next(rounds)
    before = sha256(federation.fleet.memories["b"]["personal"]), sha256(federation.fleet.memories["a"]["personal"])
    next(rounds)
    after = sha256(federation.fleet.memories["b"]["personal"]), sha256(federation.fleet.memories["a"]["personal"])
    assert before[0] == after[0] and before[1] != after[1]


def test_a_request_to_stop_is_no_failure_of_a_client(sites):
    federation, server = make_federation(sites, on_client_error="drop")
    with pytest.raises(Stopped):
        run_rounds(federation, server, 1, Failing(names=("b",), error=Stopped))


def test_bytes_counted_are_the_bytes_of_the_tensors(sites):
    federation, server = make_federation(sites)
    round = next(federation.run(FedAvg(), server, 1))
    one_model = sum(value.numel() * value.element_size() for value in server.weights.values())
    assert round.bytes_up == round.bytes_down == 3 * one_model > 0
    federation, server = make_federation(sites)
    round = next(federation.run(Local(), server, 1))
    assert round.bytes_up == round.bytes_down == 0


def test_each_gives_results_by_name_and_raises_what_was_raised(sites):
    federation, _ = make_federation(sites)
    assert federation.fleet.each(str.upper, ["c", "a"]) == {"c": "C", "a": "A"}
    with pytest.raises(ClientFailed, match="site 'a': ZeroDivisionError: division by zero"):
        federation.fleet.each(lambda name: 1 / 0, ["a"])


def test_resident_memory_does_not_grow_with_clients():
    """Twenty clients hold one network between them."""
    sites = [make_site(f"s{number:02d}", (1, 1, 1)) for number in range(20)]
    federation, _ = make_federation(sites)
    networks = {id(value) for client in federation.fleet.clients.values() for value in client.parameters()}
    assert len(networks) == len(list(federation.fleet.workbench.network.parameters()))
    assert torch.is_tensor(next(federation.fleet.workbench.network.parameters()))
