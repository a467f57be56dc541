"""Laws of what is made of the members' personal models without training: votes, averages and choices among them."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from fedlit.errors import BadInput
from fedlit.losses import probabilities
from fedlit.messages import Expert
from fedlit.prediction import (
    Adaptation,
    BestMember,
    Ensemble,
    FedTHE,
    Global,
    NearestMember,
    Routing,
    UniformAverage,
)
from fedlit.prediction.features import Moments, distance, feature_statistics, norm_layers, site_statistics
from fedlit.prediction.fedthe import last_input, mixed_logits
from fedlit.prediction.members import mean_prediction, members, own_models, personal, remembered
from fedlit.prediction.nearest_member import distances
from fedlit.prediction.told import dice_at
from tests.conftest import make_network
from tests.unseen_site import at_unseen_site, everything, experts_of, predicted, state, unlabelled, volumes

KINDS = [BestMember, Ensemble, FedTHE, NearestMember, UniformAverage]
named = {"ids": lambda kind: kind.__name__}


def softmax_network():
    from fedlit.networks import UNet

    torch.manual_seed(0)
    return UNet(1, 3, base_channels=4, depth=2)


def with_everything(network, names="abc", **options):
    """A site whose members share all that a predictor may need: each is like discs of its own brightness."""
    experts = experts_of(network, names)
    learnt = at_unseen_site(network, **options)
    shared = {}
    for place, (name, expert) in enumerate(experts.items()):
        copy = learnt.copy(learnt.server.weights)
        pictures = everything(unlabelled(6, seed=place)) * (1 - 0.25 * place)
        shared[name] = replace(
            expert,
            slots={"features": feature_statistics(copy, copy, [pictures])},
            scalars={dice_at("a"): 0.5 + place / 10},
        )
    return replace(learnt, experts=shared)


def own(learnt, name, images):
    learnt.resident.load(learnt.experts[name].weights)
    return predicted(learnt.network, images)


@pytest.mark.parametrize("network", [make_network, softmax_network])
def test_an_ensemble_of_identical_experts_is_that_expert(network):
    network, images = network(), unlabelled()
    num_classes = 1 if network.head.out_channels == 1 else 2
    same = experts_of(network, "a")["a"]
    learnt = at_unseen_site(network, experts={name: replace(same, client=name) for name in "abc"})
    learnt = replace(learnt, num_classes=num_classes)
    voted, alone = predicted(Ensemble().prepare(learnt, None), images), own(learnt, "a", images)
    assert torch.allclose(probabilities(voted, num_classes), probabilities(alone, num_classes), atol=1e-6, rtol=0)


def test_an_ensemble_is_the_mean_of_probabilities():
    images, learnt = unlabelled(), with_everything(make_network())
    voted = predicted(Ensemble().prepare(learnt, None), images)
    mean = torch.stack([own(learnt, name, images).sigmoid() for name in "abc"]).mean(0)
    assert torch.allclose(voted.sigmoid(), mean, atol=1e-6)


def test_the_mean_of_probabilities_is_exact_far_out():
    """Sigmoid and softmax, where a probability in float32 would be 0 or 1; and in lower precision."""
    sure = torch.tensor([-200.0, -30.0, 30.0, 200.0]).view(1, 1, 1, 4)
    torch.testing.assert_close(mean_prediction([sure, sure], 1), sure)
    one, other = torch.full((1, 1, 1, 1), -40.0), torch.full((1, 1, 1, 1), -80.0)
    assert mean_prediction([one, other], 1).item() == pytest.approx(-40.0 - torch.tensor(2.0).log().item())
    several = [torch.randn(2, 3, 4, 4) * 30 for _ in range(3)]
    found = mean_prediction(several, 2)
    mean = torch.stack([logits.double().softmax(1) for logits in several]).mean(0)
    torch.testing.assert_close(found.double(), mean.log(), atol=1e-4, rtol=1e-5)
    assert mean_prediction([sure.bfloat16()], 1).dtype == torch.float32


def test_the_uniform_average_is_the_mean_of_weights():
    images, learnt = unlabelled(), with_everything(make_network("batch"))
    UniformAverage().prepare(learnt, None)
    for name, value in learnt.resident.read().items():
        mean = torch.stack([expert.weights[name] for expert in learnt.experts.values()]).double().mean(0).float()
        torch.testing.assert_close(value, mean, atol=1e-7, rtol=1e-6)
    one = replace(learnt, experts={"b": learnt.experts["b"]})
    assert torch.equal(predicted(UniformAverage().prepare(one, None), images), own(learnt, "b", images))


def test_the_best_member_has_the_largest_validation_dice():
    images, learnt = unlabelled(), with_everything(make_network())
    assert torch.equal(predicted(BestMember().prepare(learnt, None), images), own(learnt, "c", images))
    even = {name: replace(expert, scalars={dice_at("b"): 0.5}) for name, expert in [*learnt.experts.items()][::-1]}
    learnt = replace(learnt, experts=even)
    assert torch.equal(predicted(BestMember().prepare(learnt, None), images), own(learnt, "a", images))


def test_the_nearest_member_has_pictures_like_the_sites():
    """The members' pictures are discs of three brightnesses; other discs of each find their own member."""
    learnt = with_everything(make_network())
    for place, name in enumerate("abc"):
        images = unlabelled(5, seed=7)
        read = images.images
        images.images = lambda indices, read=read, place=place: read(indices) * (1 - 0.25 * place)
        nearest = NearestMember().prepare(learnt, images)
        assert torch.equal(predicted(nearest, images), own(learnt, name, images))
        told = dict(zip(nearest.members, nearest.gates.unbind(-1), strict=True))
        assert {who: gate.tolist() for who, gate in told.items()} == {
            who: [[float(who == name)]] * 5 for who in ("global", "a", "b", "c")
        }


def test_distances_are_zero_at_home_and_agree_both_ways():
    learnt = with_everything(make_network())
    experts = [learnt.experts[name] for name in "abc"]
    table = [distances(expert.slots["features"], experts) for expert in experts]
    for row in range(3):
        assert table[row][row] == 0 and table[0][2] > table[0][1] > 0
        assert all(table[row][column] == pytest.approx(table[column][row]) for column in range(3))


def test_the_distance_is_that_of_gaussians_in_units_of_their_variance():
    def gaussian(mean, std):
        return {"layer.mean": torch.tensor(mean), "layer.std": torch.tensor(std)}

    one, other = gaussian([0.0, 1.0], [1.0, 2.0]), gaussian([3.0, 1.0], [2.0, 2.0])
    # (3^2 + 1^2) / 2^2 in the first channel, 0 in the second
    assert distance(one, other, gaussian([0.0, 0.0], [2.0, 1.0])) == pytest.approx(10 / 4 / 2)
    assert distance(one, other, gaussian([0.0, 0.0], [0.0, 1.0])) == pytest.approx(10 / 2)


@pytest.mark.parametrize("norm", ["group", "batch", "instance"])
def test_feature_statistics_do_not_depend_on_the_batches(norm):
    learnt, pictures = at_unseen_site(make_network(norm)), everything(unlabelled(7))
    network = learnt.copy(learnt.server.weights)
    whole = feature_statistics(network, network, [pictures])
    parts = feature_statistics(network, network, [pictures[4:], pictures[:1], pictures[1:4]])
    assert whole.keys() == {f"{layer}.{part}" for layer in norm_layers(network) for part in ("mean", "std")}
    for name, value in whole.items():
        torch.testing.assert_close(value, parts[name], atol=1e-6, rtol=1e-5)
    assert not network.encoders[0].norm1._forward_pre_hooks
    values = network.encoders[0].conv1(pictures)
    torch.testing.assert_close(whole["encoders.0.norm1.mean"], values.mean((0, 2, 3)))
    torch.testing.assert_close(whole["encoders.0.norm1.std"], values.std((0, 2, 3), correction=0))


def test_moments_keep_their_digits_far_from_zero():
    values = 1e4 + torch.randn(3, 2, 50, 50)
    moments = Moments()
    for value in values:
        moments.add(value[None], 1)
    torch.testing.assert_close(moments.variance(), values.double().var((0, 2, 3), correction=0), atol=0, rtol=1e-4)


def test_channels_are_found_in_other_networks():
    """LayerNorm and Linear have them last; a network without norm layers is read at its convolutions."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.linear = nn.LayerNorm(1), nn.Linear(1, 1)

        def forward(self, images):
            return self.linear(self.norm(images.movedim(1, -1))).movedim(-1, 1)

    for network, names in ((Tokens(), {"norm"}), (nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), {"0"})):
        found = feature_statistics(network, network, [everything(unlabelled())])
        assert found.keys() == {f"{name}.{part}" for name in names for part in ("mean", "std")}
        torch.testing.assert_close(found[f"{min(names)}.mean"], everything(unlabelled()).mean().view(1))


def test_features_of_sam_are_those_without_its_cache(tmp_path, monkeypatch):
    """What is kept on disk would leave the frozen layers uncalled."""
    from fedlit.networks import SAM, DecoderOnly

    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path))
    pictures, found = everything(unlabelled(2)), []
    for cache in (None, "fp32"):
        torch.manual_seed(0)
        network = SAM(1, 1, size="micro", tuning=DecoderOnly(), cache=cache).eval()
        network(pictures)
        found.append(feature_statistics(network, network, [pictures]))
        assert (network.cache is None) == (cache is None)
    assert found[0].keys() == found[1].keys() and any("image_encoder" in name for name in found[0])
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_heads_are_mixed_for_each_picture_by_itself():
    images, learnt = unlabelled(), with_everything(make_network())
    model = FedTHE().prepare(learnt, images)
    together = predicted(model, images)
    gates = model.gates
    assert model.members == ("a", "b", "c", "global") and gates.shape == (6, 1, 4)
    torch.testing.assert_close(gates.sum(-1), torch.ones(6, 1))
    with torch.inference_mode():
        alone = torch.cat([model(images.images([place])) for place in range(6)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


def test_without_a_step_all_heads_weigh_the_same():
    images, learnt = unlabelled(), with_everything(make_network())
    model = FedTHE(steps=0).prepare(learnt, images)
    logits, body = predicted(model, images), learnt.server.weights
    torch.testing.assert_close(model.gates, torch.full((6, 1, 4), 0.25))
    each = []
    for head in (*(learnt.experts[name].weights for name in "abc"), body):
        learnt.resident.load({**body, **{name: head[name] for name in ("head.weight", "head.bias")}})
        each.append(predicted(learnt.network, images))
    torch.testing.assert_close(logits, torch.stack(each).mean(0))


def test_heads_gain_weight_by_being_sure_and_by_being_near():
    model = FedTHE(steps=50).prepare(with_everything(make_network()), None)
    alike, far = torch.zeros(4, 1, 1, 8, 8), torch.tensor([[0.0], [1.0], [1.0], [1.0]])
    # heads that agree in not knowing are pulled nowhere
    torch.testing.assert_close(model._weigh(alike, far), torch.full((4, 1), 0.25))
    sure = alike.clone()
    sure[2] = 4
    weights = model._weigh(sure, torch.zeros(4, 1)).flatten()
    assert weights.argmax() == 2 and weights[2] > 0.5
    apart = torch.randn(4, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 4
    assert model._weigh(apart, 5 * far).argmax() == 0


def test_pictures_are_near_the_member_that_has_such():
    images, learnt = unlabelled(seed=7), with_everything(make_network("batch"))
    model, seen = FedTHE().prepare(learnt, images), []
    weigh = model._weigh
    model._weigh = lambda logits, distances: seen.append(distances) or weigh(logits, distances)
    predicted(model, images)
    near = dict(zip(model.members, seen[0], strict=True))
    assert seen[0].shape == (4, 6) and (near["a"] < near["c"]).all()
    torch.testing.assert_close(seen[0].mean(0), torch.ones(6))


def test_features_are_those_of_the_servers_model_also_within_a_head():
    """A head that reaches below the last norm layer: how near a member is does not depend on whose head comes last."""
    images, learnt = unlabelled(), with_everything(make_network())
    named_anew = {"x": "c", "y": "b", "z": "a"}
    other = replace(learnt, experts={new: replace(learnt.experts[old], client=new) for new, old in named_anew.items()})
    method, found = FedTHE(head=("decoders.1.*", "head.*")), []
    for each in (learnt, other):
        model = method.prepare(each, images)
        logits = predicted(model, images)
        found.append((logits, dict(zip(model.members, model.gates[:, 0].T, strict=True))))
    (one, gates), (two, again) = found
    torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-5)
    for new, old in {**named_anew, "global": "global"}.items():
        torch.testing.assert_close(again[new], gates[old], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("predictor", "what"),
    [(Routing(), "in any layer that is routed"), (FedTHE(), "in the head")],
    ids=["routing", "fedthe"],
)
def test_members_that_keep_nothing_of_what_is_mixed_are_told_of(predictor, what):
    """FedBN, whose members' models are the global one but for their norm layers."""
    network, images = make_network(), unlabelled()
    learnt = with_everything(network)
    assert not [*predictor.remarks(learnt, images)]
    of_all = learnt.server.weights
    kept = {name for name in of_all if "norm" in name}
    only_norms = {
        name: replace(expert, weights={**of_all, **{entry: expert.weights[entry] for entry in kept}})
        for name, expert in learnt.experts.items()
    }
    server = replace(learnt.server, weights={name: value for name, value in of_all.items() if name not in kept})
    assert kept and len(kept) < len(of_all)
    learnt = replace(learnt, server=server, kept=("*norm*",), experts=only_norms)
    [remark] = predictor.remarks(learnt, images)
    assert remark.startswith(f"members' own models do not differ from the global one {what}")


def test_a_mixture_of_identical_heads_is_the_global_model():
    network, images = make_network(), unlabelled()
    learnt = with_everything(network)
    head = {name: value for name, value in learnt.server.weights.items() if name.startswith("head")}
    same = {name: replace(expert, weights={**expert.weights, **head}) for name, expert in learnt.experts.items()}
    learnt.resident.load(learnt.server.weights)
    before = predicted(learnt.network, images)
    torch.testing.assert_close(predicted(FedTHE().prepare(replace(learnt, experts=same), images), images), before)


def test_mixed_is_a_weighted_sum():
    logits, weights = torch.randn(3, 2, 1, 4, 5), torch.rand(3, 2)
    torch.testing.assert_close(mixed_logits(logits, weights), (logits * weights[..., None, None, None]).sum(0))


@pytest.mark.parametrize("kind", KINDS, **named)
def test_members_and_server_stay_as_they_were(kind):
    images, learnt = unlabelled(), with_everything(make_network("batch"))
    before = state(learnt)
    one = predicted(kind().prepare(learnt, images), images)
    assert state(learnt) == before
    assert torch.equal(one, predicted(kind().prepare(learnt, images), images))
    backwards = replace(learnt, experts=dict([*learnt.experts.items()][::-1]))
    assert torch.equal(one, predicted(kind().prepare(backwards, images), images))


@pytest.mark.parametrize("kind", KINDS, **named)
def test_one_member_and_one_picture_are_enough(kind):
    images, learnt = unlabelled(1), with_everything(make_network(), "a")
    assert predicted(kind().prepare(learnt, images), images).shape == (1, 1, 32, 32)


@pytest.mark.parametrize("kind", KINDS, **named)
def test_without_what_it_needs_it_says_so(kind):
    network, images = make_network(), unlabelled()
    with pytest.raises(
        BadInput, match="u: no member shares a personal model; train with algorithm=iopfl and share_per"
    ):
        kind().prepare(at_unseen_site(network), images)
    other = {"a": Expert("a", {**at_unseen_site(network).server.weights, "head.bias": torch.zeros(2)})}
    with pytest.raises(
        BadInput, match=r"model of a is of another network: entry head.bias is \(2,\) there and \(1,\) "
    ):
        kind().prepare(at_unseen_site(network, experts=other), images)
    other = {"a": Expert("a", {})}
    with pytest.raises(BadInput, match=r"model of a is of another network: entry .* is absent there"):
        kind().prepare(at_unseen_site(network, experts=other), images)
    bare = at_unseen_site(network, experts=experts_of(network))
    if set(kind.needs) == {"weights"}:
        assert kind().prepare(bare, None) is not None
    else:
        who = "no member shares its validation Dice of every model," if kind is BestMember else "a shares no"
        with pytest.raises(BadInput, match=rf"{who} .*: evaluate the run again"):
            kind().prepare(bare, images)


def test_the_nearest_member_needs_pictures():
    with pytest.raises(BadInput, match="u: what adapts to a site needs the site's pictures"):
        NearestMember().prepare(with_everything(make_network()), None)


def test_a_head_that_is_not_there_is_named():
    learnt = with_everything(make_network())
    with pytest.raises(
        BadInput, match=r"head=\['last.\*'\] matches none of the trained entries.*head.weight, head.bias"
    ):
        FedTHE(head=("last.*",)).prepare(learnt, unlabelled())
    network = make_network()
    network.head.bias.requires_grad_(False)  # it is not sent, and so not mixed
    assert [*FedTHE().prepare(with_everything(network), unlabelled()).heads["a"]] == ["head.weight"]
    for wrong, message in (({"steps": -1}, "whole number of at least 0"), ({"lr": -1}, "use 0 or more")):
        with pytest.raises(ValueError, match=message):
            FedTHE(**wrong)


def test_site_statistics_do_not_depend_on_a_sites_own_entries():
    """They are compared with the members', so all look through the server's weights."""
    learnt, images = with_everything(make_network()), unlabelled()
    kept = replace(learnt, memory={"kept": {"head.bias": torch.ones(1)}})
    one, other = (site_statistics(each, images) for each in (learnt, kept))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_site_statistics_take_no_more_pictures_at_once_than_a_prediction():
    """Also where the cases are volumes, which are scored whole."""
    seen, learnt = [], with_everything(make_network())

    def lend(network):
        return lambda images: seen.append(len(images)) or network(images)

    site_statistics(replace(learnt, lend=lend), volumes((5, 4)))
    assert sum(seen) == 9 and max(seen) <= learnt.batch_size == 4


def test_heads_look_at_pictures_as_members_do_where_these_keep_entries():
    """Members with the same pictures as the site are all at no distance, whatever norm layers they keep."""
    images = unlabelled()
    plain = with_everything(make_network("batch"))
    features = site_statistics(plain, images)
    experts = {name: replace(expert, slots={"features": features}) for name, expert in plain.experts.items()}
    kept = ("*norm*",)
    shared = {name: value for name, value in plain.server.weights.items() if "norm" not in name}
    for learnt in (plain, replace(plain, kept=kept, server=replace(plain.server, weights=shared))):
        model = FedTHE(steps=0).prepare(replace(learnt, experts=experts), images)
        with last_input(model.observer) as seen:
            predicted(model, images)
        layer, values, axis = seen
        mean = values.float().movedim(axis, -1).flatten(0, -2).mean(0)
        torch.testing.assert_close(mean, features[f"{layer}.mean"], atol=1e-6, rtol=1e-6)


def test_a_federation_scores_all_of_them_at_unseen_sites_alone():
    """Through the network as the fleet lends it, the same in whatever order predictors come."""
    from fedlit.metrics import Scoring
    from fedlit.prediction import SAR, TENT, TTA, AdaBN
    from tests.conftest import make_federation, make_site

    federation, server = make_federation([make_site("a"), make_site("u", role="unseen")], network=make_network("batch"))
    experts = with_everything(make_network("batch")).experts
    kinds = [*KINDS, AdaBN, SAR, TENT, TTA]

    def rows(kinds):
        predictors = {kind.__name__: kind() for kind in kinds}
        return federation.score(
            predictors, server, scoring=Scoring(), metrics=("dice",), classes=("disc",), split="test", experts=experts
        ).cases

    found = rows(kinds)
    assert {(row.site, row.model) for row in found} == {("u", kind.__name__) for kind in kinds}
    assert sorted(found) == sorted(rows(kinds[::-1]))


def test_a_model_is_asked_once_for_every_picture_that_it_has_room_for():
    calls = []

    def model(images):
        calls.append(len(images))
        return 2 * images

    images = torch.randn(4, 1, 8, 8)
    once = remembered(model)
    for batch in (images, images[[2, 0]], images[1:]):
        assert torch.equal(once(batch), 2 * batch)
    assert calls == [4]
    once(torch.cat([images[:1], images[:1] + 1]))
    assert calls == [4, 2]
    narrow = remembered(model, most_bytes=2 * images[0].nbytes)
    assert torch.equal(narrow(images), narrow(images)) and calls[2:] == [4, 4]
    assert torch.equal(narrow(images[:2]), 2 * images[:2]) and calls[2:] == [4, 4]


def with_shares(share):
    learnt = with_everything(make_network())
    experts = learnt.experts.items()
    return replace(
        learnt,
        experts={name: replace(expert, scalars={**expert.scalars, "share": share}) for name, expert in experts},
    )


def test_a_personal_model_is_its_members_own_mixed_with_the_global_one():
    learnt = with_shares(0.25)
    for expert, found in zip(learnt.experts.values(), members(learnt), strict=True):
        for name, value in found.weights.items():
            wanted = 0.75 * learnt.server.weights[name] + 0.25 * expert.weights[name]
            torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-6)
    assert [expert.weights for expert in own_models(learnt)] == [expert.weights for expert in learnt.experts.values()]


@pytest.mark.parametrize("kind", [BestMember, Ensemble, NearestMember, UniformAverage], **named)
def test_of_members_that_take_nothing_of_their_own_it_is_the_global_model(kind):
    learnt, images = with_shares(0.0), unlabelled()
    wanted = predicted(Global().prepare(learnt, images), images)
    assert torch.allclose(predicted(kind().prepare(learnt, images), images), wanted, atol=1e-5)
    whole = predicted(kind().prepare(with_shares(1.0), images), images)
    assert (whole - wanted).abs().max() > 1e-2


@pytest.mark.parametrize("kind", [FedTHE, partial(Routing, adaptation=Adaptation(passes=2, lr=0.05))])
def test_what_is_mixed_anew_is_what_members_have_learnt_by_themselves(kind):
    """However little of that they take for their own use."""
    images = unlabelled()
    none, whole = (predicted(kind().prepare(with_shares(share), images), images) for share in (0.0, 1.0))
    assert torch.equal(none, whole)
    assert (whole - predicted(Global().prepare(with_shares(1.0), images), images)).abs().max() > 1e-2


def test_what_is_kept_at_a_member_is_mixed_with_nothing_elsewhere():
    learnt = with_shares(0.5)
    without = {name: value for name, value in learnt.server.weights.items() if not name.startswith("head")}
    expert = learnt.experts["a"]
    found = personal(replace(learnt, server=replace(learnt.server, weights=without)), expert).weights
    assert found.keys() == expert.weights.keys()
    assert all(torch.equal(found[name], expert.weights[name]) == (name not in without) for name in found)
