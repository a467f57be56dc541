"""A checkpoint is whole or not there; what it brings back is what was saved."""

import json

import pytest
import torch

from fedlit.algorithms import Local
from fedlit.checkpoint import Checkpoints, State, kept_name, read_state
from fedlit.errors import BadInput
from fedlit.messages import Server
from fedlit.weights import sha256
from tests.conftest import make_federation, run_rounds


@pytest.fixture
def saved(tmp_path, sites):
    """Three saved rounds of Local training, the second one kept."""
    federation, server = make_federation(sites, optimizer_state="keep")
    checkpoints = Checkpoints(tmp_path, federation.fleet)
    states = []
    for round in federation.run(Local(), server, 3):
        server = Server(round.server.weights, round.server.round, {"momentum": {"w": torch.randn(3)}}, {"rate": 0.5})
        states.append(State(server, dict(federation.fleet.memories), {"best": 0.25, "kept_round": 2}))
        checkpoints.save(states[-1], kept=round.server.round == 2)
    return checkpoints, states


def hash_of(memory) -> str:
    return sha256(*map(memory.get, sorted(memory)))


def same(left: State, right: State) -> bool:
    one, other = left.server, right.server
    return (
        sha256(one.weights, *one.slots.values()) == sha256(other.weights, *other.slots.values())
        and (one.round, one.scalars, left.progress) == (other.round, other.scalars, right.progress)
        and left.memories.keys() == right.memories.keys()
        and all(left.memories[name].keys() == right.memories[name].keys() for name in left.memories)
        and all(hash_of(left.memories[name]) == hash_of(right.memories[name]) for name in left.memories)
    )


def no_warning(text):
    raise AssertionError(text)


def test_newest_and_kept_come_back_bit_for_bit(saved):
    checkpoints, states = saved
    assert same(checkpoints.newest(no_warning), states[2]) and same(checkpoints.kept(), states[1])
    assert not same(states[1], states[2])


def test_two_rounds_and_the_kept_one_stay_and_nothing_else(saved):
    checkpoints, _ = saved
    files = {path.name for path in checkpoints.directory.iterdir()}
    assert {name for name in files if name.endswith(".json")} == {"round-00002.json", "round-00003.json", "kept.json"}
    named = set()
    for name in ("round-00002.json", "round-00003.json", "kept.json"):
        index = json.loads((checkpoints.directory / name).read_text())
        named |= {index["server"]["file"], *index["memories"].values()}
    assert {name for name in files if not name.endswith(".json")} == named


def test_what_did_not_change_is_not_written_again(saved):
    checkpoints, states = saved
    before = {path.name: path.stat().st_mtime_ns for path in checkpoints.directory.glob("*.safetensors")}
    checkpoints.save(State(Server(states[2].server.weights, 4), states[2].memories, {}))
    after = {path.name: path.stat().st_mtime_ns for path in checkpoints.directory.glob("*.safetensors")}
    assert all(after[name] == before[name] for name in after.keys() & before.keys())
    assert len(after.keys() - before.keys()) == 1  # the server, whose slots are gone


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "index"])
def test_a_damaged_newest_falls_back_to_the_one_before_and_says_so(saved, damage):
    checkpoints, states = saved
    newest, before = (json.loads((checkpoints.directory / f"round-0000{number}.json").read_text()) for number in (3, 2))
    (name,) = {newest["memories"]["a"]} - {before["memories"]["a"]}
    path = checkpoints.directory / (name if damage != "index" else "round-00003.json")
    content = path.read_bytes()
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]) if damage == "flip" else content[: len(content) // 2])
    warnings = []
    assert same(checkpoints.newest(warnings.append), states[1])
    assert len(warnings) == 1 and path.name in warnings[0] and "going back" in warnings[0]
    checkpoints = Checkpoints(checkpoints.directory, checkpoints.fleet)
    checkpoints.save(states[2], kept=True)  # the round again, with the same bits
    assert same(checkpoints.newest(no_warning), states[2]) and same(checkpoints.kept(), states[2])


def test_nothing_whole_is_refused_and_nothing_saved_is_none(saved, tmp_path):
    checkpoints, _ = saved
    for path in checkpoints.directory.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(BadInput, match=r"no checkpoint in .* is whole.*overwrite=true"):
        checkpoints.newest(lambda text: None)
    assert Checkpoints(tmp_path / "other", checkpoints.fleet).newest(no_warning) is None


def test_an_interrupted_save_leaves_the_one_before(saved, monkeypatch):
    """The disk is full while the newest is written: what was there stays whole."""
    import fedlit.checkpoint

    checkpoints, states = saved

    def full(path, content):
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(fedlit.checkpoint, "write_atomically", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoints.save(State(Server({"w": torch.ones(2)}, 4), {}, {}))
    assert same(checkpoints.newest(no_warning), states[2])


def test_an_index_cannot_lead_out_of_its_folder(saved):
    checkpoints, _ = saved
    path = checkpoints.directory / "round-00003.json"
    index = json.loads(path.read_text())
    index["server"]["file"] = "../" + index["server"]["file"]
    path.write_text(json.dumps(index))
    with pytest.raises(BadInput, match="is missing"):
        checkpoints.load("round-00003.json")


def test_only_wanted_memories_are_read(saved):
    checkpoints, _ = saved
    directory = checkpoints.directory
    assert read_state(directory, kept_name(directory), lambda name: name == "b").memories.keys() == {"b"}


def test_a_loaded_state_goes_on_as_if_never_saved(saved, sites):
    checkpoints, _ = saved
    federation, server = make_federation(sites, optimizer_state="keep")
    run_rounds(federation, server, 5, Local())
    whole = federation.fleet.memories
    state = checkpoints.newest(no_warning)
    federation, _ = make_federation(sites, optimizer_state="keep")
    federation.fleet.memories = dict(state.memories)
    run_rounds(federation, state.server, 5, Local())
    assert all(hash_of(whole[name]) == hash_of(federation.fleet.memories[name]) for name in "abc")
