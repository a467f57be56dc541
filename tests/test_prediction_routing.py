"""Laws of routing: where it starts, what it never touches, whom it cannot tell apart; and what is refused."""

import gc
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from fedlit.config import build
from fedlit.data.pictures import Pictures, Unlabelled
from fedlit.errors import BadInput
from fedlit.finished import in_precision
from fedlit.messages import Server
from fedlit.networks import SAM, UNet
from fedlit.networks.tuning import Adapters, DecoderOnly, LoRA
from fedlit.prediction import AdaBN, Adaptation, Global, Mixture, Routing, Unsupervised
from fedlit.prediction.features import feature_statistics
from fedlit.prediction.gates import FORMS, Gate
from fedlit.prediction.normalisation import settle, use_batch_statistics
from fedlit.prediction.routed_layers import RoutedLayer
from fedlit.prediction.routed_network import routable
from fedlit.prediction.steadiest import put, take_steadiest
from fedlit.prediction.told import dice_at, trial_of
from fedlit.weights import sha256
from tests.conftest import discs, make_network
from tests.unseen_site import at_unseen_site, everything, exact, experts_of, predicted, state, unlabelled, volumes

ROOT = Path(__file__).parents[1]
FEW = Adaptation(passes=2, lr=0.01)
AT_REST = Adaptation(passes=0)


def routing(adaptation=FEW, **options):
    """With all that can move, and nothing that holds it back; online under batch statistics."""
    free = {"anchor": 0.0, "tune_norms": True, "adaptation": adaptation}
    if adaptation.protocol == "online":
        free["statistics"] = "batch"
    return Routing(**{**free, **options})


def at_site(network=None, **options):
    network = make_network() if network is None else network
    return at_unseen_site(network, experts=experts_of(network), **options)


def micro_sam(tuning=Adapters):
    torch.manual_seed(0)
    return SAM(1, 1, size="micro", tuning=tuning())


class Mixed(nn.Module):
    """Groups, a transposed convolution, tokens through linear layers and a norm layer of each kind."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, stride=2, padding=1, padding_mode="replicate")
        self.norm = nn.BatchNorm2d(8)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=2, groups=4, dilation=2), nn.InstanceNorm2d(8, affine=True)
        )
        self.tokens = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8, bias=False))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.up = nn.ConvTranspose2d(8, 1, 2, stride=2)

    def forward(self, image):
        x = self.block(self.norm(self.stem(image)).relu())
        tokens = x.flatten(2).mT
        tokens = tokens + self.tokens(tokens) + self.attention(tokens, tokens, tokens, need_weights=False)[0]
        return self.up(tokens.mT.unflatten(2, x.shape[-2:]))


def mixed():
    torch.manual_seed(0)
    return Mixed()


@contextmanager
def without_fast_path():
    """As a routed network runs: torch's fast path through attention rounds otherwise."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def monai_unet():
    from monai.networks.nets import UNet

    torch.manual_seed(0)
    return UNet(2, 1, 1, channels=(4, 8, 16), strides=(2, 2), num_res_units=1)


NETWORKS = {
    "U-Net": make_network,
    "U-Net with BatchNorm": lambda: make_network("batch"),
    "SAM with adapters": micro_sam,
    "SAM with LoRA": lambda: micro_sam(LoRA),
    "groups and tokens": mixed,
    "MONAI": monai_unet,
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_it_starts_at_the_global_model_and_leaves_it(make):
    """One picture is bit for bit the global model's under the same statistics; then the gates open."""
    images, learnt = exact(unlabelled()), at_site(make().double())
    before = state(learnt)
    at_rest = routing(replace(AT_REST, protocol="online")).prepare(learnt, images)
    with torch.inference_mode(), without_fast_path():
        assert torch.equal(at_rest(everything(images)[:1]), under_batch_statistics(learnt)(everything(images)[:1]))
        wanted = under_batch_statistics(learnt)(everything(images))
    torch.testing.assert_close(predicted(at_rest, images), wanted, atol=1e-6, rtol=1e-6)
    model = routing(statistics="batch").prepare(learnt, images)
    assert (predicted(model, images) - wanted).abs().max() > 1e-3
    assert isinstance(model, Mixture) and model.members == ("a", "b", "c")
    assert model.gates.shape == (6, len(model.layers), 3)
    assert (model.gates.abs().amax((0, 2)) > 0).sum() > len(model.layers) / 2 > 2
    assert state(learnt) == before


def under_batch_statistics(learnt):
    network = learnt.copy(learnt.shared)
    use_batch_statistics(network)
    return network


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_experts_and_frozen_parameters_keep_every_bit(make):
    network = make()
    learnt = at_site(network)
    frozen = {name: value for name, value in network.named_parameters() if not value.requires_grad}
    before = state(learnt), sha256(frozen)
    for gates in FORMS:
        predicted(routing(gates=gates).prepare(learnt, unlabelled()), unlabelled())
    assert (state(learnt), sha256(frozen)) == before
    assert {name for name, value in network.named_parameters() if not value.requires_grad} == frozen.keys()


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_what_is_no_kernel_stays_the_global_models(make):
    learnt = at_site(make())
    network = routing(tune_norms=False).prepare(learnt, unlabelled()).model.__self__.network
    found, own = dict(network.named_parameters()), learnt.server.weights
    kept = found.keys() & own.keys()
    assert any("norm" in name for name in kept) or make is monai_unet
    for name in kept:
        assert torch.equal(found[name], own[name])
        assert not torch.equal(learnt.experts["a"].weights[name], own[name])


def stacks(model):
    """The experts as a routed network holds them."""
    network = model.model.__self__.network
    return {name: value for name, value in network.named_buffers() if name.endswith("stack")}


def test_experts_lie_in_a_network_once_and_adapting_leaves_them_as_they_are():
    learnt, images = at_site(), unlabelled()
    rest, adapted = (stacks(routing(adaptation).prepare(learnt, images)) for adaptation in (AT_REST, FEW))
    assert rest.keys() == adapted.keys() and sha256(rest) == sha256(adapted)
    held = sum(value.numel() for value in rest.values())
    assert held == (1 + len(learnt.experts)) * sum(value.numel() for value in routed_entries(learnt))
    model = routing(AT_REST).prepare(learnt, images)
    places = {name: value.data_ptr() for name, value in stacks(model).items()}
    predicted(model, images)
    assert {name: value.data_ptr() for name, value in stacks(model).items()} == places


def routed_entries(learnt):
    """Kernels and biases of the layers that are routed."""
    network = learnt.resident.network
    layers = routable(network, learnt.resident.trained()).values()
    return [value for layer in layers for value in layer.parameters()]


@pytest.mark.parametrize("protocol", ["transductive", "online"])
@pytest.mark.parametrize("gates", FORMS)
def test_the_same_again_is_the_same_bit_for_bit(gates, protocol):
    chosen = routing(replace(FEW, protocol=protocol), gates=gates)

    def run(**options):
        torch.rand(3)
        return predicted(chosen.prepare(at_site(**options), unlabelled()), unlabelled())

    assert torch.equal(run(), run())
    assert not torch.equal(run(), run(seed=1)) and not torch.equal(run(), run(site="v"))


@pytest.mark.parametrize("gates", FORMS)
def test_in_which_order_members_are_told_of_changes_nothing(gates):
    learnt, images = at_site(), unlabelled()
    backwards = replace(learnt, experts=dict(reversed(learnt.experts.items())))
    models = [routing(gates=gates).prepare(each, images) for each in (learnt, backwards)]
    assert torch.equal(*(predicted(model, images) for model in models)) and models[0].members == models[1].members


@pytest.mark.parametrize("gates", ["difference", "softmax"])
def test_permuted_members_have_permuted_gates(gates):
    """Whoever has which model: nothing changes but whose gate it is."""
    images = exact(unlabelled())
    learnt = at_site(make_network().double())
    one = learnt.experts
    other = {name: replace(one[whose], client=name) for name, whose in zip("abc", "cab", strict=True)}
    chosen = routing(gates=gates)
    models = [chosen.prepare(replace(learnt, experts=experts), images) for experts in (one, other)]
    torch.testing.assert_close(*(predicted(model, images) for model in models), atol=1e-6, rtol=1e-6)
    places = [2, 0, 1, 3][: len(models[0].members)]
    torch.testing.assert_close(models[0].gates[:, :, places], models[1].gates, atol=1e-6, rtol=1e-6)
    assert (models[0].gates - models[1].gates).abs().max() > 1e-3


@pytest.mark.parametrize("gates", ["difference", "softmax"])
def test_identical_experts_are_that_expert(gates):
    learnt, images = at_site(make_network().double()), exact(unlabelled())
    same = {name: replace(expert, weights=learnt.server.weights) for name, expert in learnt.experts.items()}
    chosen = routing(gates=gates, tune_norms=False)
    found = predicted(chosen.prepare(replace(learnt, experts=same), images), images)
    torch.testing.assert_close(found, predicted(Global().prepare(learnt, images), images), atol=1e-8, rtol=1e-8)


def test_a_picture_is_predicted_alike_in_any_company():
    for make in (make_network, lambda: make_network("batch")):
        images, learnt = exact(unlabelled()), at_site(make().double())
        model = routing().prepare(learnt, images)
        together = predicted(model, images)
        with torch.inference_mode():
            alone = torch.cat([model(picture[None]) for picture in everything(images)])
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_the_order_of_cases_is_irrelevant(norm):
    found = []
    for way in (1, -1):
        images = unlabelled(5)
        images.cases = images.cases[::way]
        found.append(predicted(routing().prepare(at_site(make_network(norm)), images), images))
    assert torch.equal(*found)


SHIPPED = {path.stem: path for path in sorted((ROOT / "configs" / "prediction").glob("*.yaml"))}


def shipped(name, images):
    """The model of a predictor that ships, at a site with all that it may ask for."""
    network = make_network("batch").to(everything(images).dtype)
    features = feature_statistics(network.eval(), network, [everything(images)])
    predictor = build(OmegaConf.load(SHIPPED[name]))
    trials = {trial_of(candidate): place / 10 for place, candidate in enumerate(predictor.candidates)}
    told = {"slots": {"features": features}, "scalars": {dice_at("a"): 0.8, "share": 0.5, **trials}}
    experts = {name: replace(expert, **told) for name, expert in experts_of(network).items()}
    memory = {"personal": experts["a"].weights}
    learnt = at_unseen_site(network, experts=experts, memory=memory)
    return predictor.prepare(learnt, images)


@pytest.mark.parametrize("name", [name for name in SHIPPED if not name.endswith("_online")])
def test_where_the_whole_site_is_known_neither_order_nor_batches_matter(name):
    images, found = exact(unlabelled(5)), []
    for way in (1, -1):
        images.cases = images.cases[::way]
        model = shipped(name, images)
        with torch.inference_mode():
            found.append(torch.cat([model(part) for part in everything(images).split(2)[::way]][::way]))
    found.append(predicted(model, images))
    for other in found[1:]:  # gates are of float32
        torch.testing.assert_close(other, found[0], atol=1e-5, rtol=1e-4)


class Unreadable:
    """Stands where masks were, and holds none."""

    def __getitem__(self, _):
        raise AssertionError("a mask was read")


@pytest.mark.parametrize("name", SHIPPED)
def test_no_label_reaches_a_predictor(name, monkeypatch):
    pixels, masks = discs(4, seed=1)
    pictures = Pictures.from_arrays(pixels, masks, np.array([[0, 1]]))
    monkeypatch.setattr(pictures._pack, "_code_stack", Unreadable())
    with pytest.raises(AssertionError, match="a mask was read"):
        pictures.batch([0])
    images = pictures.unlabelled()
    assert predicted(shipped(name, images), images).isfinite().all()
    with pytest.raises(AssertionError, match="may only see images"):
        images.batch([0])


@pytest.mark.parametrize("norm", ["group", "batch"])
def test_odd_sites_are_served(norm):
    sites = {
        "one picture": unlabelled(1),
        "another size": Pictures.from_arrays(*discs(3, 1, size=45), np.array([[0, 1]])).unlabelled(),
        "not square": Pictures.from_arrays(
            np.random.default_rng(0).integers(0, 255, (3, 30, 44, 1)).astype(np.uint8),
            np.zeros((3, 30, 44), np.uint8),
            np.array([[0, 1]]),
        ).unlabelled(),
        "black": Pictures.from_arrays(
            np.zeros((3, 32, 32, 1), np.uint8), np.zeros((3, 32, 32), np.uint8), np.array([[0, 1]])
        ).unlabelled(),
        "volumes": volumes(),
    }
    for name, images in sites.items():
        for protocol in ("transductive", "online"):
            chosen = routing(replace(FEW, protocol=protocol))
            found = predicted(chosen.prepare(at_site(make_network(norm)), images), images)
            assert found.isfinite().all() and found.shape[-2:] == everything(images).shape[-2:], name


class Pooled(nn.Module):
    """BatchNorm where a picture is one value, and where nothing passes but in training."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))
        self.further = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 1, 1)

    def forward(self, image):
        x = self.stem(image).relu()
        return self.head((self.further(x) if self.training else x) + self.pooled(x))


def test_batch_norm_that_sees_too_little_of_a_site_keeps_the_members_statistics():
    torch.manual_seed(0)
    learnt = at_site(Pooled())
    for count in (1, 3):
        images = unlabelled(count)
        assert predicted(routing().prepare(learnt, images), images).isfinite().all()


@pytest.mark.parametrize(
    ("teacher", "statistics", "num_models"), [("global", "steadiest", 1), ("all", "steadiest", 4), ("all", "batch", 4)]
)
def test_what_the_teacher_says_of_a_picture_is_asked_once(teacher, statistics, num_models):
    asked = []
    network = make_network()

    def count(module, images):
        asked.append(0 if any(isinstance(each, RoutedLayer) for each in module.modules()) else len(images[0]))

    network.register_forward_pre_hook(count)
    chosen = Routing(teacher=teacher, statistics=statistics, adaptation=Adaptation(passes=3))
    chosen.prepare(at_site(network), unlabelled(6))
    assert sum(asked) == (1 + 2) + 6 * num_models  # which layers see pictures is asked with one and with two


@dataclass(frozen=True)
class Overheard(Unsupervised):
    """What the network and its teacher say of each batch as it is, beside the objective."""

    said: list = field(default_factory=list)

    def __call__(self, model, images, seed, num_classes, *, teacher=None):
        self.said.append((model(images).detach(), teacher(images).detach()))
        return super().__call__(model, images, seed, num_classes, teacher=teacher)


@pytest.mark.parametrize(
    ("norm", "options"),
    [
        ("group", {}),
        ("batch", {"statistics": "steadiest"}),
        ("batch", {"statistics": "global"}),
        ("batch", {"statistics": "batch"}),
        ("batch", {"adaptation": replace(FEW, protocol="online", passes=1)}),
        ("batch", {"tune_norms": True}),
    ],
)
def test_at_its_start_the_network_says_what_its_teacher_does(norm, options):
    """Of BatchNorm under the same statistics, or agreement would pull it to the model that it has left for a better."""
    overheard = Overheard(agreement=1.0, consistency=0.0)
    chosen = routing(**{"adaptation": replace(FEW, lr=0.0), "tune_norms": False, "objective": overheard, **options})
    learnt, images = at_site(make_network(norm).double()), exact(unlabelled(seed=9))
    predicted(chosen.prepare(learnt, images), images)
    assert overheard.said
    for own, taught in overheard.said:
        torch.testing.assert_close(own, taught, atol=1e-6, rtol=1e-6)
    if norm == "batch" and options.get("statistics") == "batch":
        plain = predicted(Global().prepare(learnt, images), images)
        assert (predicted(chosen.prepare(learnt, images), images) - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("norm", "statistics"), [("group", "steadiest"), ("batch", "batch"), ("batch", "global")])
def test_the_teacher_stays_what_it_was_while_norm_layers_adapt(norm, statistics):
    overheard = Overheard(agreement=1.0, consistency=0.0)
    chosen = routing(Adaptation(passes=4, lr=0.05), objective=overheard, statistics=statistics)
    chosen.prepare(at_site(make_network(norm)), unlabelled(1))
    (own, first), *_, (later, last) = overheard.said
    assert torch.equal(first, last) and (later - own).abs().max() > 1e-3


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("predict", ["before", "after"])
def test_gates_are_those_of_the_prediction(predict, precision):
    """Predicted before it adapts, the first batch is the global model's, and its gates say so."""
    chosen = routing(replace(FEW, protocol="online", predict=predict))
    model = chosen.prepare(at_site(lend=partial(in_precision, precision=precision)), unlabelled(4))
    predicted(model, unlabelled(4))
    assert model.gates.shape == (4, len(model.layers), 3)
    assert (model.gates.abs().max() > 0) == (predict == "after")


@pytest.mark.parametrize("precision", ["bf16-mixed", "16-mixed"])
def test_gates_learn_the_same_way_in_less_precision(precision):
    """float16 would make most of such small gradients 0 without a loss scale."""
    opened = {}
    for name in ("32-true", precision):
        chosen = routing(Adaptation(passes=1, lr=1e-3), objective=Unsupervised(agreement=1.0, consistency=0.0))
        model = chosen.prepare(at_site(lend=partial(in_precision, precision=name), batch_size=8), unlabelled(8))
        predicted(model, unlabelled(8))
        opened[name] = model.gates.flatten()
    assert torch.cosine_similarity(*opened.values(), dim=0) > 0.95


@pytest.mark.parametrize("statistics", ["steadiest", "batch", "global"])
def test_once_adapted_to_a_site_a_prediction_depends_on_its_picture_alone(statistics):
    images = exact(unlabelled())
    model = routing(statistics=statistics).prepare(at_site(make_network("batch").double()), images)
    with torch.inference_mode():
        together, alone = model(everything(images)), torch.cat([model(image[None]) for image in everything(images)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("protocol", ["transductive", "online"])
def test_a_cache_of_features_is_not_filled_with_views_that_never_come_again(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("FEDLIT_CACHE", str(tmp_path))
    network = SAM(1, 1, size="micro", tuning=DecoderOnly(), cache="fp32")
    chosen = routing(replace(FEW, protocol=protocol), objective=Unsupervised(agreement=1.0))
    predicted(chosen.prepare(at_site(network), unlabelled(3)), unlabelled(3))
    assert len([*tmp_path.rglob("features/*/*.safetensors")]) == 3


def test_a_model_that_nobody_holds_is_freed_at_once():
    """And with it the stacks of experts of all its layers: nothing waits for Python to look for garbage."""
    model = routing(AT_REST).prepare(at_site(), unlabelled())
    layer = weakref.ref(next(each for each in model.model.__self__.network.modules() if isinstance(each, RoutedLayer)))
    gc.disable()
    try:
        del model
        assert layer() is None
    finally:
        gc.enable()


def test_a_gate_drops_features_out_while_it_learns():
    gate = Gate(4, 3, FORMS["softmax"], seed=0)
    nn.init.normal_(gate.outer.weight)
    pooled = torch.ones(1, 4)
    torch.manual_seed(0)
    assert not torch.equal(gate(pooled), gate(pooled))
    gate.eval()
    assert torch.equal(gate(pooled), gate(pooled))


def test_one_member_is_a_gate_over_one():
    learnt, images = at_site(), unlabelled()
    model = routing().prepare(replace(learnt, experts={"a": learnt.experts["a"]}), images)
    predicted(model, images)
    assert model.members == ("a",) and model.gates.shape == (6, len(model.layers), 1)


def test_as_published_the_global_model_is_one_of_the_experts():
    model = routing(gates="sigmoid").prepare(at_site(), unlabelled())
    predicted(model, unlabelled())
    assert model.members == ("a", "b", "c", "global") and model.gates.min() > 0 and model.gates.max() < 1


def test_only_trained_norm_layers_are_tuned():
    network = micro_sam()
    learnt = at_site(network)
    seen = []

    class Watching(Adaptation):
        def adapt(self, learnt, network, images, objective, **options):
            seen.extend(name for name, value in network.named_parameters() if value.requires_grad)
            return super().adapt(learnt, network, images, objective, **options)

    routing(Watching(passes=1)).prepare(learnt, unlabelled())
    names = {name.rsplit(".", 1)[0] for name in seen if ".gate." not in name}
    assert names and all(name.startswith("mask_decoder") for name in names)
    assert all(f"{name}.weight" in learnt.resident.parameters for name in names)
    seen.clear()
    routing(Watching(passes=1), tune_norms=False).prepare(learnt, unlabelled())
    assert seen and all(".gate." in name for name in seen)


def test_no_personal_models_names_what_makes_them():
    with pytest.raises(BadInput, match=r"u: .*algorithm=iopfl and share_personal=true"):
        Routing().prepare(at_unseen_site(), unlabelled())


def test_personal_models_of_another_network_are_refused():
    learnt = at_unseen_site(make_network(), experts=experts_of(monai_unet()))
    with pytest.raises(BadInput, match=r"personal model of a is of another network: entry .* is absent there"):
        Routing().prepare(learnt, unlabelled())
    weights = dict(learnt.server.weights)
    weights["head.weight"] = torch.zeros(3, 4, 1, 1)
    with pytest.raises(BadInput, match=r"head.weight is \(3, 4, 1, 1\) there and \(1, 4, 1, 1\) here"):
        Routing().prepare(replace(learnt, experts={"a": replace(learnt.experts["a"], weights=weights)}), unlabelled())


class Block(nn.Module):
    """Attention and layers after it in a Sequential, as in CLIP."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2)
        self.mlp = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return x + self.mlp(x)


@pytest.mark.parametrize("make", [lambda: nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), Block])
def test_tokens_with_the_sequence_first_stay_global(make):
    """Their rows are places, not pictures: what a picture gets must not depend on its company."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 8, 8, stride=8)
            self.layer = make()
            self.up = nn.ConvTranspose2d(8, 1, 8, stride=8)

        def forward(self, image):
            x = self.stem(image)
            return self.up(self.layer(x.flatten(2).permute(2, 0, 1)).permute(1, 2, 0).unflatten(2, x.shape[-2:]))

    torch.manual_seed(0)
    images = exact(unlabelled(4))
    model = routing().prepare(at_site(Tokens().double()), images)
    assert set(model.layers) == {"stem", "up"}
    together = predicted(model, images)
    with torch.inference_mode():
        torch.testing.assert_close(together[:1], model(everything(images)[:1]), atol=1e-6, rtol=1e-6)


def test_without_pictures_or_anything_to_route_it_says_so():
    with pytest.raises(BadInput, match="needs the site's pictures"):
        Routing().prepare(at_site(), None)

    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

        def forward(self, image):
            return image * self.scale

    with pytest.raises(BadInput, match="nothing to route; use"):
        Routing().prepare(at_site(Scale()), unlabelled())


def remarks(network, **options):
    return [*Routing().remarks(at_site(network), unlabelled(**options))]


def test_layers_that_stay_global_are_told_of():
    class Widened(nn.Conv2d):
        pass

    body = [nn.Conv2d(1, 4, 3, padding=1), Widened(4, 4, 1), weight_norm(nn.Conv2d(4, 4, 1)), nn.Conv2d(4, 1, 1)]
    [remark] = remarks(nn.Sequential(*body))
    assert remark.startswith(
        "2 of 4 convolutions and linear layers stay those of the global model, such as 1, a Widened"
    )
    body[1].requires_grad_(False)
    [remark] = remarks(nn.Sequential(*body))
    assert "1 of 3" in remark and "such as 2, a Parametrized" in remark
    assert not remarks(UNet(base_channels=4))
    body[0].register_forward_hook(lambda layer, given, output: output.relu())
    [remark] = remarks(nn.Sequential(*body))
    assert "2 of 3" in remark and "such as 0, a Conv2d with hooks" in remark


class Positions(nn.Module):
    """A linear layer on a table of places [H W, 2], the same for all pictures, and one on pictures in a loop."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 8, stride=8)
        self.places = nn.Linear(2, 4)
        self.each = nn.Linear(4, 4)
        self.up = nn.ConvTranspose2d(4, 1, 8, stride=8)

    def forward(self, image):
        x = self.stem(image)
        rows, columns = (torch.linspace(0, 1, side, dtype=x.dtype) for side in x.shape[-2:])
        places = self.places(torch.cartesian_prod(rows, columns)).T.unflatten(1, x.shape[-2:])
        each = torch.stack([self.each(input=one.mean((1, 2))) for one in x])
        return self.up(x + places + each[..., None, None])


def test_rows_that_are_not_pictures_stay_global():
    torch.manual_seed(0)
    images = exact(unlabelled(4))
    learnt = at_site(Positions().double())
    model = routing().prepare(learnt, images)
    assert set(model.layers) == {"stem", "each", "up"}
    together = predicted(model, images)
    with torch.inference_mode():
        alone = torch.cat([model(image[None]) for image in everything(images)])
    torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)
    [remark] = Routing().remarks(learnt, images)
    assert "1 of 4" in remark and "such as places, a Linear whose rows are not pictures" in remark


def test_without_a_layer_on_pictures_there_is_nothing_to_route():
    class Places(nn.Module):
        def __init__(self):
            super().__init__()
            self.places, self.scale = nn.Linear(2, 1), nn.Parameter(torch.ones(1))

        def forward(self, image):
            rows, columns = (torch.linspace(0, 1, side) for side in image.shape[-2:])
            places = self.places(torch.cartesian_prod(rows, columns)).T.unflatten(1, image.shape[-2:])
            return image * self.scale + places

    with pytest.raises(BadInput, match="Linear whose rows are pictures: nothing to route; use"):
        Routing().prepare(at_site(Places()), unlabelled())


def test_a_layer_that_a_picture_passed_by_has_no_gates_of_it():
    class Skipping(nn.Module):
        def __init__(self):
            super().__init__()
            self.always, self.bright = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)

        def forward(self, image):
            x = self.always(image)
            return self.bright(x) if image.mean() > 0 else x

    images = unlabelled()
    model = routing(Adaptation(passes=3, lr=0.05)).prepare(at_site(Skipping()), images)
    predicted(model, images)
    assert (model.gates.abs().amax((0, 2)) > 0).tolist() == [True, True]
    with torch.inference_mode():
        model(-everything(images))
    assert (model.gates.abs().amax((0, 2)) > 0).tolist() == [True, False]


def test_gates_are_held_in_float32_whatever_a_run_holds_its_network_in():
    learnt = at_site(make_network().bfloat16(), lend=partial(in_precision, precision="bf16-true"))
    model = routing().prepare(learnt, unlabelled())
    gates = [value for layer in model.noted.routed.values() for value in layer.gate.parameters()]
    assert {value.dtype for value in gates} == {torch.float32}
    assert predicted(model, unlabelled()).isfinite().all()


def test_a_network_of_one_layer_has_nothing_to_route():
    with pytest.raises(BadInput, match="nothing to route"):
        Routing().prepare(at_site(nn.Conv2d(1, 1, 3, padding=1)), unlabelled())


def test_pictures_of_other_channels_are_refused():
    with pytest.raises(BadInput, match=r"^u: its pictures have 1 channels, and the network takes 3; read"):
        Routing().prepare(at_site(channels=3), unlabelled())


def test_the_order_of_memory_changes_no_prediction():
    """Colour in channels_last, as bf16 has it, and one channel after the other."""
    torch.manual_seed(0)
    learnt = at_site(UNet(in_channels=3, base_channels=4).double())
    pictures = exact(unlabelled())
    colour = Unlabelled(
        pictures.cases, lambda indices: pictures.images(indices).repeat(1, 3, 1, 1), size=pictures.size, channels=3
    )
    model = routing().prepare(learnt, colour)
    with torch.inference_mode():
        one, other = (model(everything(colour).contiguous(memory_format=order)) for order in ORDERS)
    torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)


ORDERS = (torch.contiguous_format, torch.channels_last)


def test_what_a_hook_makes_of_a_layer_is_kept():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1))
    network[0].register_forward_hook(lambda layer, given, output: output.relu())
    learnt, images = at_site(network.double()), exact(unlabelled())
    plain = predicted(Global().prepare(learnt, images), images)
    torch.testing.assert_close(predicted(routing(AT_REST).prepare(learnt, images), images), plain, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("chosen", [AdaBN(), routing(), routing(statistics="batch")])
def test_batch_norm_without_scales_keeps_the_precision_of_its_network(chosen, dtype):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Conv2d(4, 1, 1)).to(dtype)
    learnt, images = at_site(network), unlabelled()
    batch = everything(images).to(dtype)
    learnt = replace(learnt, lend=lambda model: lambda pictures: model(pictures.to(dtype)))
    model = chosen.prepare(learnt, images)
    with torch.inference_mode():
        assert model(batch).dtype == dtype


def test_a_network_may_name_what_it_gives_a_layer_and_is_told_where_it_cannot_be_routed():
    class Named(nn.Module):
        def __init__(self, reads):
            super().__init__()
            self.layer, self.reads = nn.Conv2d(1, 1, 3, padding=1), reads

        def forward(self, image):
            return self.layer(input=image) + (self.layer.weight.sum() if self.reads else 0)

    images = unlabelled()
    routing().prepare(at_site(Named(reads=False)), images)
    with pytest.raises(AttributeError, match=r"routed, Conv2d\(1, 1, .* use prediction=tent or prediction=global"):
        routing().prepare(at_site(Named(reads=True)), images)


def test_entries_that_members_keep_are_their_mean_where_nobody_trained():
    learnt, images = at_site(kept=("*norm*",)), unlabelled()
    found = predicted(Routing(adaptation=AT_REST).prepare(learnt, images), images)
    assert learnt.shared.keys() == learnt.server.weights.keys()
    wanted = predicted(Global().prepare(learnt, images), images)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    assert (wanted - predicted(Global().prepare(replace(learnt, kept=()), images), images)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(gates="argmax"), "gates='argmax' is not allowed; use one of difference, softmax, sigmoid"),
        (dict(anchor=-1.0), "anchor=-1.0 is not allowed"),
        (dict(gates="sigmoid"), "anchor=0.01 .* gates=difference; use 0"),
        (dict(statistics="own"), "statistics='own' is not allowed; use one of steadiest, batch, global"),
        (dict(teacher="nobody"), "teacher='nobody' is not allowed; use one of global, all"),
        (dict(teacher="all", objective=Unsupervised(entropy=1.0)), "teacher=all teaches nothing"),
        (dict(adaptation=Adaptation("online")), "needs the whole set of pictures; online, use batch or global"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Routing(**arguments)


def test_an_anchor_holds_the_gates_near_zero():
    def opened(anchor):
        chosen = routing(anchor=anchor, objective=Unsupervised(entropy=1.0))
        model = chosen.prepare(at_site(), unlabelled())
        predicted(model, unlabelled())
        return model.gates.abs().mean()

    assert opened(100.0) < 0.5 * opened(0.0)


def test_batch_norm_takes_the_steadiest_mixture():
    """The members' statistics where they are the site's; the site's where under the members' all pixels look alike."""
    images, network = unlabelled(8), make_network("batch")
    learnt = at_site(network)
    of_site = under_batch_statistics(learnt)
    settle(learnt, of_site, batch_norms_of(of_site), images)
    own = learnt.server.weights | statistics(of_site)
    off = {name: value + 30 * (name == "decoders.1.norm2.running_mean") for name, value in own.items()}
    for weights, share in ((own, 0.0), (off, 1.0)):
        elsewhere = replace(learnt, server=Server(weights))
        network = elsewhere.copy(weights)
        assert take_steadiest(elsewhere, network, images, noise=0.05) == share
        torch.testing.assert_close(statistics(network), statistics(of_site))
    found = predicted(Routing(adaptation=AT_REST).prepare(elsewhere, images), images)
    torch.testing.assert_close(found, predicted(of_site, images), atol=1e-4, rtol=1e-4)
    assert take_steadiest(at_site(), make_network(), images, noise=0.05) is None


def test_a_mixture_of_populations_has_the_statistics_of_all_their_values():
    generator = torch.Generator().manual_seed(0)
    some, others = (place + torch.randn(count, 4, generator=generator) for place, count in ((0, 300), (3, 100)))
    layer = nn.BatchNorm2d(4)
    of_some, of_others = ((values.mean(0), values.var(0, unbiased=False)) for values in (some, others))
    put({"norm": layer}, {"norm": of_some}, {"norm": of_others}, share=0.25)
    together = torch.cat([some, others])
    torch.testing.assert_close(layer.running_mean, together.mean(0))
    torch.testing.assert_close(layer.running_var, together.var(0, unbiased=False))


def batch_norms_of(network):
    return {name: module for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def statistics(network):
    return {
        f"{name}.{part}": getattr(module, part)
        for name, module in batch_norms_of(network).items()
        for part in ("running_mean", "running_var")
    }
