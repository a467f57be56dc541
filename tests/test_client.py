"""A client is a LightningModule that trains the same way alone as in a federation."""

import lightning
import pytest
import torch

from fedlit.client import Client
from fedlit.errors import BadInput
from fedlit.losses import DiceBCE
from fedlit.resident import Resident, check_keep_local
from fedlit.training import LocalTraining
from fedlit.weights import sha256
from tests.conftest import make_federation, make_network, make_site, run_rounds


def trainer_weights(site, rounds, **plan):
    """What plain lightning.Trainer makes of the same client: one epoch is one round."""
    client = Client(site, make_network(), loss=DiceBCE(), plan=LocalTraining(**plan))
    trainer = lightning.Trainer(
        max_epochs=rounds,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(client)
    return Resident(client.network).read()


@pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*logging interval.*",
    "ignore:.*litlogger.*",
    "ignore:.*LeafSpec.*",
)
@pytest.mark.parametrize(
    ("rounds", "options"),
    [
        (1, {}),
        (1, {"epochs": 2}),
        (1, {"epochs": None, "steps": 5}),
        (3, {"optimizer_state": "keep"}),
        (3, {"optimizer_state": "keep", "schedule": lambda round: 0.5**round}),
    ],
)
def test_one_client_is_plain_lightning_training(rounds, options):
    """Bit for bit: for one round, and for several where the optimizer is kept."""
    site = make_site("a", (7, 2, 2))
    options = {"optimizer": lambda parameters: torch.optim.Adam(parameters, lr=1e-2), "batch_size": 3} | options
    federation, server = make_federation([site], **options)
    federated = run_rounds(federation, server, rounds).weights
    assert sha256(trainer_weights(site, rounds, **options)) == sha256(federated)


def test_all_clients_share_one_network(sites):
    federation, _ = make_federation(sites)
    assert len({id(client.network) for client in federation.fleet.clients.values()}) == 1


def test_load_sets_every_entry_and_counters_back():
    network = make_network(norm="batch")
    resident = Resident(network)
    network.train()(torch.rand(2, 1, 32, 32))
    counter = next(name for name in resident.counters)
    assert resident.network.state_dict()[counter] == 1
    name = next(iter(resident.parameters))
    resident.load({name: torch.full_like(resident.first[name], 0.5)})
    state = network.state_dict()
    assert state[counter] == 0 and (state[name] == 0.5).all()
    others = [key for key in state if key != name]
    assert sha256({key: state[key] for key in others}) == sha256({key: resident.first[key] for key in others})


def test_weights_of_another_network_are_refused():
    resident = Resident(make_network())
    with pytest.raises(BadInput, match=r"another network: entry other has shape \(2,\), here it is absent"):
        resident.load({"other": torch.zeros(2)})
    with pytest.raises(BadInput, match=r"entry head.bias has shape \(3,\), here it is of shape \(1,\)"):
        resident.load({"head.bias": torch.zeros(3)})


def test_read_gives_copies():
    resident = Resident(make_network())
    read = resident.read()
    read["head.bias"].add_(1)
    assert not torch.equal(read["head.bias"], resident.read()["head.bias"])


def test_frozen_parameters_neither_travel_nor_move():
    network = make_network()
    network.encoders[0].requires_grad_(False)
    before = network.encoders[0].conv1.weight.clone()
    federation, server = make_federation([make_site("a")], network=network)
    after = run_rounds(federation, server, 1)
    assert not any(name.startswith("encoders.0") for name in after.weights)
    assert torch.equal(network.encoders[0].conv1.weight, before)


def test_keep_local_must_match_something_and_leave_something():
    names = ["conv.weight", "norm.weight"]
    check_keep_local(names, [])
    check_keep_local(names, ["norm.*"])
    with pytest.raises(BadInput, match=r"'bn\*' matches none of the network's 2 entries, such as conv.weight"):
        check_keep_local(names, ["bn*"])
    with pytest.raises(BadInput, match="keeps every entry local"):
        check_keep_local(names, ["*"])


def test_update_holds_nothing_of_the_site(sites):
    """What leaves is weights, a count and a mean loss: no picture, no case, no memory."""
    federation, server = make_federation(sites, optimizer_state="keep")
    client = federation.fleet.clients["a"]
    client.load(server.weights)
    client.fit(0)
    update = client.update()
    assert update.weights.keys() == server.weights.keys() and not update.slots
    assert update.client == "a" and update.num_samples == 7 and update.scalars.keys() == {"loss"}
    assert "optimizer" in client.memory
