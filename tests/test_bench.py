"""The bench measures what it says: both sides do the same steps."""

import pytest
import torch

from tests import bench


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
