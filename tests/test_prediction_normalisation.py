"""Laws of TENT, SAR and AdaBN: what they change, what they leave, and where they are the global model."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fedlit.errors import BadInput
from fedlit.prediction import SAR, TENT, AdaBN, Adaptation, Routing
from fedlit.prediction.normalisation import batch_norms, settle, use_batch_statistics
from fedlit.prediction.sar import FlatStep
from fedlit.prediction.unsupervised import entropy
from fedlit.weights import sha256
from tests.conftest import make_network
from tests.unseen_site import at_unseen_site, exact, experts_of, predicted, state, unlabelled

ONLINE = Adaptation("online", passes=1)
QUICK = Adaptation(passes=2)
named = {"ids": lambda value: f"{type(value).__name__}-{getattr(value, 'adaptation', value).protocol}"}
VARIANTS = [TENT(QUICK), TENT(ONLINE), SAR(adaptation=QUICK), SAR(adaptation=ONLINE), AdaBN(), AdaBN("online")]


def used(norm="batch"):
    """A network whose running statistics are no longer 0 and 1, and which is sure of some pixels."""
    network = make_network(norm)
    with torch.no_grad():
        network.head.weight.mul_(10)
        for layer in batch_norms(network).values():
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return network


@pytest.mark.parametrize("kind", [TENT, SAR])
@pytest.mark.parametrize("adaptation", [Adaptation(passes=0), Adaptation(lr=0.0), Adaptation("online", lr=0.0)])
@pytest.mark.parametrize("norm", ["group", "instance"])
def test_without_a_step_it_is_the_global_model(kind, adaptation, norm):
    """Bit for bit, where norm layers keep no statistics."""
    images, learnt = unlabelled(), at_unseen_site(make_network(norm))
    before = predicted(learnt.network, images)
    assert torch.equal(predicted(kind(adaptation=adaptation).prepare(learnt, images), images), before)


@pytest.mark.parametrize("kind", [TENT, SAR])
@pytest.mark.parametrize("protocol", ["transductive", "online"])
def test_without_a_step_it_is_adabn(kind, protocol):
    images, learnt = unlabelled(), at_unseen_site(used())
    model = kind(adaptation=Adaptation(protocol, passes=0)).prepare(learnt, images)
    still = predicted(model, images)
    assert torch.equal(still, predicted(AdaBN(protocol).prepare(learnt, images), images))
    learnt.resident.load(learnt.server.weights)
    assert not torch.equal(still, predicted(learnt.network, images))


@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
@pytest.mark.parametrize("kind", [TENT, SAR])
def test_predictions_become_surer(kind, norm):
    images, learnt = unlabelled(), at_unseen_site(used(norm))
    sure = [
        entropy(
            predicted(kind(adaptation=Adaptation(passes=passes, lr=0.01)).prepare(learnt, images), images), 1
        ).mean()
        for passes in (0, 20)
    ]
    assert sure[1] < 0.9 * sure[0]


@pytest.mark.parametrize("norm", ["group", "batch"])
@pytest.mark.parametrize("predictor", VARIANTS, **named)
def test_everything_given_stays_as_it_was(predictor, norm):
    """The server's weights, the experts, and what the resident network is once they are loaded again."""
    network = used(norm)
    learnt = at_unseen_site(network, experts=experts_of(network))
    before, images = state(learnt), unlabelled()
    reference = predicted(learnt.network, images)
    model = predictor.prepare(learnt, images)
    if model is not None:
        predicted(model, images)
    learnt.resident.load(learnt.server.weights)
    assert state(learnt) == before and torch.equal(predicted(learnt.network, images), reference)
    assert all(value.requires_grad for value in network.parameters())
    assert all(layer.track_running_stats for layer in batch_norms(network).values())


@pytest.mark.parametrize("predictor", VARIANTS, **named)
def test_prepared_twice_it_is_the_same_bit_for_bit(predictor):
    images = unlabelled()
    one, other = (predicted(predictor.prepare(at_unseen_site(used()), images), images) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("predictor", [TENT(QUICK), SAR(adaptation=QUICK), AdaBN()], **named)
def test_transductive_predictions_depend_on_their_picture_alone(predictor):
    """Also with BatchNorm, whose statistics are those of the site by then: neither batch nor order matters."""
    images = exact(unlabelled())
    model = predictor.prepare(at_unseen_site(used().double()), images)
    with torch.inference_mode():
        alone = torch.cat([model(images.images([place])) for place in range(len(images))])
    torch.testing.assert_close(alone, predicted(model, images), atol=1e-6, rtol=1e-6)


def test_adabn_with_a_networks_own_pictures_is_that_network():
    """Statistics of the same pictures are the same, whatever they were before."""
    images, learnt = unlabelled(), at_unseen_site(used())
    network = learnt.copy(learnt.server.weights)
    layers = use_batch_statistics(network)
    settle(learnt, network, layers, images)
    own = at_unseen_site(network.requires_grad_(True))
    assert own.server.weights.keys() == learnt.server.weights.keys()
    assert torch.equal(predicted(AdaBN().prepare(own, images), images), predicted(network, images))
    assert torch.equal(predicted(AdaBN().prepare(learnt, images), images), predicted(network, images))


def test_settled_statistics_are_those_of_all_pictures():
    """In the first layer exactly, and not the mean of batches' variances."""
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1))
    images, learnt = unlabelled(7), at_unseen_site(network, batch_size=3)
    values = network[0](images.images(range(7)))
    model = AdaBN().prepare(learnt, images)
    torch.testing.assert_close(model[1].running_mean, values.mean((0, 2, 3)))
    torch.testing.assert_close(model[1].running_var, values.var((0, 2, 3)))


@pytest.mark.parametrize("protocol", ["transductive", "online"])
def test_synchronised_batch_norm_stays_at_its_process(protocol):
    """It becomes what BatchNorm becomes; in training mode it would refuse the CPU or wait for other processes."""
    images = unlabelled()
    plain, together = used(), nn.SyncBatchNorm.convert_sync_batchnorm(used())
    together.load_state_dict(plain.state_dict())
    for predictor in (AdaBN(protocol), TENT(Adaptation(protocol, passes=1))):
        one, other = (predicted(predictor.prepare(at_unseen_site(net), images), images) for net in (plain, together))
        assert torch.equal(one, other)


def test_where_there_is_none():
    """AdaBN without BatchNorm; TENT without a trained norm layer; both without a global model for the site."""
    images = unlabelled()
    assert AdaBN().prepare(at_unseen_site(make_network("group")), None) is None
    plain = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1))
    frozen = make_network()
    for name, value in frozen.named_parameters():
        value.requires_grad_("norm" not in name)
    kept = replace(at_unseen_site(used()), kept=("*norm*",))
    for kind in (TENT, SAR):
        assert all(
            kind().prepare(each, images) is None for each in (at_unseen_site(plain), at_unseen_site(frozen), kept)
        )
    assert AdaBN().prepare(kept, images) is None


@pytest.mark.parametrize("make", [TENT, SAR, partial(Routing, tune_norms=True)], ids=["tent", "sar", "routing"])
def test_steps_that_a_precision_cannot_hold_are_told_of(make):
    """In bfloat16 the number after 1 is 1.0078: Adam's steps of 1e-3 are rounded away."""
    for dtype, lr, is_lost in (
        (torch.float32, 1e-6, False),
        (torch.bfloat16, 1e-3, True),
        (torch.bfloat16, 4e-3, False),
        (torch.float16, 4e-4, True),
        (torch.float16, 5e-4, False),
    ):
        network = used().to(dtype)
        learnt = at_unseen_site(network, experts=experts_of(network))
        told = [*make(adaptation=Adaptation(lr=lr)).remarks(learnt, unlabelled())]
        assert ["adaptation.lr" in remark for remark in told] == [True] * is_lost


@pytest.mark.parametrize("predictor", VARIANTS, **named)
def test_without_pictures_it_says_so(predictor):
    with pytest.raises(BadInput, match="needs the site's pictures"):
        predictor.prepare(at_unseen_site(used()), None)


def test_frozen_norm_layers_are_neither_tuned_nor_copied():
    network = used("group")
    network.encoders[0].requires_grad_(False)
    learnt, images = at_unseen_site(network), unlabelled()
    before = {name: value.detach().clone() for name, value in network.named_parameters()}
    model = TENT(QUICK).prepare(learnt, images)
    assert predicted(model, images).isfinite().all()
    assert all(torch.equal(value, before[name]) for name, value in network.named_parameters())


@pytest.mark.parametrize("cache", [None, "fp32"])
@pytest.mark.parametrize("adaptation", [QUICK, ONLINE], ids=lambda value: value.protocol)
def test_sam_adapts_what_of_it_is_trained(adaptation, cache, tmp_path, monkeypatch):
    """The frozen encoder, which the copy shares, stays as it is; what it keeps on disk can be part of the work."""
    from fedlit.networks import SAM, Adapters

    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path))
    torch.manual_seed(0)
    network = SAM(1, 1, size="micro", tuning=Adapters(last=1), cache=cache)
    learnt, images = at_unseen_site(network), unlabelled(2)
    before, plain = sha256(network.state_dict()), predicted(network, images)
    found = predicted(TENT(replace(adaptation, lr=0.01)).prepare(learnt, images), images)
    assert found.shape == plain.shape and not torch.equal(found, plain)
    assert sha256(network.state_dict()) == before


def test_wrong_arguments_are_refused():
    for wrong in ({"margin": 1.5}, {"rho": -1}, {"recovery": 2.0}):
        with pytest.raises(ValueError, match="is not allowed; use a number from 0 to"):
            SAR(**wrong)
    with pytest.raises(ValueError, match="use one of transductive, online"):
        AdaBN("offline")
    for kind in (TENT, SAR):
        with pytest.raises(ValueError, match=r"add _target_: fedlit.prediction.Adaptation"):
            kind(adaptation={"passes": 3})


def test_shipped_defaults_are_the_classes_own():
    from fedlit.config import build, check, load

    config = check(load("quickstart", ["prediction=[tent,sar,adabn]"])).require()
    assert [build(config.prediction[name]) for name in ("tent", "sar", "adabn")] == [TENT(), SAR(), AdaBN()]


def quadratic(start):
    """A bowl that is steeper on one side, and the optimizer of its one parameter."""
    place = nn.Parameter(torch.tensor(start))
    return place, torch.optim.SGD([place], lr=0.1), lambda: place**2 * torch.where(place > 0, 4.0, 1.0)


def test_a_flat_step_takes_the_gradient_uphill():
    place, optimizer, objective = quadratic(0.5)
    loss = FlatStep(0.1, 0.0)(optimizer, objective)
    # the gradient of 4 x^2 at 0.5 + 0.1
    torch.testing.assert_close((loss, place.detach()), (torch.tensor(1.0), torch.tensor(0.5 - 0.1 * 8 * 0.6)))
    place, optimizer, objective = quadratic(0.5)
    FlatStep(0.0, 0.0)(optimizer, objective)
    torch.testing.assert_close(place.detach(), torch.tensor(0.5 - 0.1 * 8 * 0.5))


def test_a_collapse_is_taken_back():
    for recovery, returns in ((0.5, True), (0.0, False)):
        place, optimizer, objective = quadratic(0.5)
        step, places = FlatStep(0.0, recovery), []
        for _ in range(30):
            step(optimizer, objective)
            places.append(place.item())
        assert (0.5 in places) == returns


@pytest.mark.parametrize("recovery", [0.1, 0.8])
def test_what_is_reset_remembers_no_batch(recovery):
    """SAR's average of the entropy, by which it begins again, is forgotten, too."""
    adaptation = Adaptation("online", passes=2, lr=0.05, state="reset")
    images = unlabelled(4)
    model = SAR(margin=1.0, recovery=recovery, adaptation=adaptation).prepare(at_unseen_site(), images)
    first = predicted(model, images)
    for _ in range(12):
        assert torch.equal(predicted(model, images), first)


def test_unsure_pixels_do_not_count():
    """With a margin of 0 no pixel does, and nothing changes."""
    images, learnt = unlabelled(), at_unseen_site()
    before = predicted(learnt.network, images)
    assert torch.equal(predicted(SAR(margin=0.0).prepare(learnt, images), images), before)
    assert not torch.equal(predicted(SAR(margin=1.0).prepare(learnt, images), images), before)


def test_where_a_channel_has_one_value_the_members_statistics_serve():
    """One picture at a bottleneck of 1x1: batch statistics would be none."""
    layer = torch.nn.BatchNorm2d(3)
    layer.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    layer.running_var.copy_(torch.tensor([4.0, 1.0, 0.25]))
    network = torch.nn.Sequential(layer).eval()
    one, several = torch.randn(1, 3, 1, 1), torch.randn(2, 3, 4, 4)
    wanted = network(one)
    use_batch_statistics(network)
    torch.testing.assert_close(network(one), wanted)
    torch.testing.assert_close(network(several).mean((0, 2, 3)), torch.zeros(3), atol=1e-5, rtol=0)
