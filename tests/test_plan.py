"""Plans: what is said before a run is what the run does, and what cannot be known is said to be unknown."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from fedlit.__main__ import checked
from fedlit.algorithms import Algorithm
from fedlit.assembly import training_costs
from fedlit.fleet.placement import team_size
from fedlit.footprint import Unknown
from fedlit.plan import plan, together
from fedlit.rehearsal import Exchange
from tests.conftest import fedlit, make_site


class Picky(nn.Module):
    """A network that looks at what it is given."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, image):
        return self.conv(image) if image.mean() > 0.5 else self.conv(-image)


class Greedy(Picky):
    """A network whose first state is computed from values."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels)
        self.scale = float(self.conv.weight.sum())


@dataclass(frozen=True)
class Momentum(Algorithm):
    """From the second round on the server sends what it remembers; clients send one more set of tensors."""

    def broadcast(self, server):
        from fedlit.messages import Broadcast

        return Broadcast(server.round, server.weights, server.slots)

    def local_update(self, client, broadcast):
        client.load(broadcast.weights)
        client.fit(broadcast.round)
        return client.update(change=client.weights()), client.memory

    def server_update(self, server, aggregate):
        from dataclasses import replace

        return replace(server, weights=aggregate.weights, slots={"change": aggregate.slots["change"]})


@pytest.fixture
def planned(config_file, monkeypatch):
    monkeypatch.setenv("FEDLIT_TRUSTED_PACKAGES", "tests")
    return lambda *words, **options: plan(checked(config_file, words).require(), **options)


def total(found, direction: str) -> int:
    return found.in_all_rounds(lambda exchange: getattr(exchange, direction))


RUNS = {
    "everybody": (),
    "two of three": ("clients_per_round=2",),
    "a fraction": ("fraction_train=0.5",),
    "local": ("algorithm=local",),
    "pooled": ("algorithm=centralized",),
    "kept entries": ("keep_local=['*norm*']",),
    "kept buffers": ("network.norm=batch", "buffers=local"),
    "sent buffers": ("network.norm=batch",),
    "double": ("precision=64-true",),
    "half": ("precision=bf16-true",),
    "memory": ("algorithm=tests.test_plan.Momentum", "num_rounds=5"),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_sends_what_was_planned(name, planned, config_file, tmp_path):
    words = ("num_rounds=2", "local_epochs=1", *RUNS[name])
    words = tuple(word.replace("algorithm=tests", "algorithm._target_=tests") for word in words)
    found = planned(*words)
    assert not (tmp_path / "run").exists()
    assert fedlit("run", config_file, *words) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert {key: total(found, key) for key in ("bytes_up", "bytes_down")} == {
        key: summary[key] for key in ("bytes_up", "bytes_down")
    }


def test_the_numbers_of_a_unet(planned):
    found = planned("network.base_channels=32", "network.depth=4", "clients_per_round=2")
    assert (found.total, found.trained) == (7_762_465, 7_762_465)
    assert found.exchanges[0] == Exchange(2, 7_762_465, 4 * 7_762_465, 4 * 7_762_465)
    assert total(found, "bytes_up") == 4 * 2 * 4 * 7_762_465  # rounds, clients, bytes


def test_clients_have_the_homes_steps_and_pictures_of_a_run(planned):
    found = planned("devices=2", "local_epochs=3", "batch_size=4")
    rows = [
        (each.name, each.role, each.num_pictures, each.num_train, each.num_steps, each.home) for each in found.clients
    ]
    assert rows == [("a", "member", 11, 7, 6, 0), ("b", "member", 9, 5, 6, 1), ("c", "member", 9, 4, 3, 1)]
    assert [(each.name, each.role, each.num_pictures, each.home) for each in found.workloads[3:]] == [
        ("u", "unseen", 5, None)
    ]
    assert [each.num_trained for each in found.clients] == [21, 15, 12]


@pytest.mark.parametrize(
    ("words", "processes", "team", "batch"),
    [
        ((), 1, 1, 4),
        (("devices=2", "num_nodes=2", "processes_per_client=1"), 4, 1, 4),
        (("devices=2", "num_nodes=2", "processes_per_client=world"), 4, 4, 1),
        (("devices=2", "processes_per_client=2", "batch_size=3"), 2, 2, 2),
        (("devices=2", "processes_per_client=2", "batch_size=100"), 2, 2, 4),  # 7 pictures are the most
        (("devices=auto",), 1, 1, 4),
        (("devices='0,1,'", "accelerator=cuda"), 2, 1, 4),
    ],
)
def test_processes_teams_and_batches(planned, words, processes, team, batch):
    found = planned(*words)
    assert (found.num_processes, found.team, found.batch) == (processes, team, batch)
    assert ("gradients on their way" in found.memory) == (team > 1)


def test_seconds_that_a_run_has_measured_form_no_other_teams(planned, config_file, tmp_path):
    """As in the run that goes on: sums of another size of teams would be rounded otherwise."""
    words = ("devices=2", "unseen_sites=[c,u]")
    assert planned(*words).team == 1
    folder = tmp_path / "run" / "checkpoint"
    folder.mkdir(parents=True)
    work = {"a": [700.0, 7], "b": [0.5, 5]}  # seconds and pictures; by these a would be worth both processes
    index = {"format": 1, "server": {}, "memories": {}, "progress": {"work": work}}
    (folder / "round-00001.json").write_text(json.dumps(index))
    costs = training_costs([make_site("a", (7, 1, 1)), make_site("b", (5, 1, 1))], folder)
    assert team_size("auto", costs, 2) == 2 and planned(*words).team == 1


def test_memory_adds_up_and_follows_the_optimizer_and_the_batch(planned):
    size = ("data.image_size=32",)
    adam, sgd = planned(*size), planned(*size, "optimizer={_target_: torch.optim.SGD, lr: 0.1}")
    weights = adam.memory["weights"]
    assert weights == adam.memory["gradients"] == adam.memory["first state"] == 4 * adam.total
    assert adam.memory["mean of updates"] == 6 * weights
    assert 2 * weights <= adam.memory["optimizer"] < 2.1 * weights and sgd.memory["optimizer"] == 0
    assert together(adam.memory) - together(sgd.memory) == adam.memory["optimizer"]
    assert planned(*size, "batch_size=2").memory["activations"] < 0.6 * adam.memory["activations"]


def test_without_a_root_clients_are_unknown_and_the_rest_is_not(planned, config_file):
    from dataclasses import replace

    result = replace(checked(config_file, ["data.root='???'", "data.image_size=32"]), unset=())
    found = plan(result.require())
    assert found.workloads == Unknown("data.root is not set")
    assert found.exchanges[0].bytes_update == planned().exchanges[0].bytes_update
    assert found.memory == planned("data.image_size=32").memory


def test_what_needs_data_is_unknown_with_the_reason(planned, config_file):
    own_sizes = planned()
    assert "set data.image_size" in own_sizes.memory["activations"].reason
    assert own_sizes.memory["optimizer"] > 0
    text = config_file.read_text().replace("network.base_channels: 4\nnetwork.depth: 2\n", "")
    config_file.write_text(f"{text}network: {{_target_: tests.test_plan.Picky}}\n")
    picky = planned("data.image_size=32")
    assert picky.total == 2
    assert picky.memory["activations"].reason.startswith("Picky cannot run without data: ")
    assert together(picky.memory) is picky.memory["activations"]
    config_file.write_text(config_file.read_text().replace("Picky", "Greedy"))
    greedy = planned("data.image_size=32", measured=True)
    for value in (greedy.total, greedy.exchanges, greedy.seconds):
        assert value.reason.startswith("Greedy cannot be built without data: ")
    assert [each.name for each in greedy.clients] == ["a", "b", "c"]


def test_steps_are_measured_where_they_fit(planned, monkeypatch):
    from fedlit import plan as module

    size = "data.image_size=32"
    assert planned(size).seconds is None
    assert 0 < planned(size, measured=True).seconds < 60
    paces = {"measure": lambda *_: module.Pace(step=1.0, picture=0.5)}
    monkeypatch.setattr(module, "measure", paces["measure"])
    assert planned(size, measured=True).seconds == 15 * 1.0 + 48 * 0.5
    assert planned(size, "devices=2", measured=True).seconds == 9 * 1.0 + 27 * 0.5  # of b and c, in one home
    assert planned(size, "clients_per_round=2", measured=True).seconds == pytest.approx(39 * 2 / 3)
    both = ("devices=2", "processes_per_client=world")
    assert planned(size, *both, measured=True).seconds == 15 * 1.0 + 48 * 0.5 / 2
    monkeypatch.setattr(module, "free_bytes", lambda accelerator: 1000)
    reason = planned(size, measured=True).seconds.reason
    assert reason.startswith("not measured: one picture needs about ") and reason.endswith("0.001 MB are free here")
    monkeypatch.setattr(module, "free_bytes", lambda accelerator: None)
    assert "cannot be told" in planned(size, measured=True).seconds.reason


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_machine_without_gpu_plans_for_one(planned):
    found = planned("data.image_size=32", "accelerator=cuda", "precision=auto", "devices=auto", measured=True)
    assert "here is none" in found.num_processes.reason and "precision=32-true" in found.assumptions[0]
    assert [each.home for each in found.clients] == [None] * 3
    assert isinstance(found.seconds, Unknown) and found.memory["activations"] > 0
    one = planned("data.image_size=32", "accelerator=cuda", "devices=1", measured=True)
    assert "cannot be told" in one.seconds.reason


def printed(capsys, monkeypatch, *words, columns: int = 70) -> list[str]:
    monkeypatch.setenv("COLUMNS", str(columns))
    assert fedlit("plan", *words) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("columns", [70, 120])
def test_the_table_fits_and_cuts_nothing_off(config_file, capsys, monkeypatch, columns):
    lines = printed(capsys, monkeypatch, config_file, "data.image_size=32", "devices=2", columns=columns)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= columns and "…" not in text and "\x1b" not in text
    squeezed = "".join(text.split())
    for part in ("process1", "parameters", "0.01M", "3of3clients", "Notcounted"):
        assert part in squeezed
    assert "discs | FedAvg | UNet" in text


def test_the_table_says_what_is_unknown(config_file, capsys, monkeypatch):
    lines = printed(capsys, monkeypatch, config_file, "data.root='???'", "--measure")
    assert "clients: unknown (data.root is not set)" in lines
    assert any(line.startswith("memory per device") and "+" in line for line in lines)
    assert any(line.startswith("time per round") and "unknown" in line for line in lines)


def test_bad_input_is_named_as_in_a_run(config_file, capsys):
    for words, message in {
        ("lrr=1",): "did you mean lr?",
        ("data.root=/nowhere/at/all",): "is no folder",
        ("data.labels='???'",): "data.labels: is not set",
        ("unseen_sites=[x]",): "'x' is no site",
        ("min_available_clients=9",): "only 3 sites train",
        ("devices=3", "processes_per_client=2"): "3 processes cannot be divided so",
        ("keep_local=[nothing]",): "'nothing' matches none",
        ("activation=softmax",): "does not fit loss",
    }.items():
        assert fedlit("plan", config_file, *words) == 2, words
        assert message in capsys.readouterr().err


def test_nothing_is_decoded_drawn_or_written(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path / "cache"))
    assert fedlit("plan", "quickstart") == 0
    assert not list(tmp_path.iterdir())
    assert "1.94 M" in capsys.readouterr().out
