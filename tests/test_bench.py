"""The bench measures what it says: both sides do the same steps."""

import pytest
import torch

from tests import bench, bench_routing


@pytest.fixture
def threads():
    """The bench leaves the number of threads to its user."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_both_sides_train_and_save(tmp_path, threads):
    made = bench.many_clients(tmp_path, 3)
    steps = []
    step = torch.optim.Adam.step
    torch.optim.Adam.step = lambda self, *arguments: (steps.append(1), step(self, *arguments))[1]
    try:
        counts = []
        for rounds in (bench.ours(made, tmp_path), bench.bare(made, tmp_path)):
            before = len(steps)
            next(rounds)
            counts.append(len(steps) - before)
    finally:
        torch.optim.Adam.step = step
    assert counts == [3, 3]
    assert (tmp_path / "bare.pt").is_file() and list((tmp_path / "ours").glob("round-*.json"))


def test_routing_is_timed_as_it_ships(tmp_path, threads, monkeypatch, capsys):
    """With small pictures and few members; also the loop over pictures says what the routed batch says."""
    for name, value in {"NUM_EXPERTS": 2, "BATCH": 3, "SIZES": (32,), "NUM_PICTURES": 4, "PICTURE_SIZE": 32}.items():
        monkeypatch.setattr(bench_routing, name, value)
    bench_routing.bench_routing(tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("routing: ") for line in lines] == [True] * 4 and "10 passes" in lines[2]
    assert float(lines[0].rpartition(" ")[2]) < 1e-3
