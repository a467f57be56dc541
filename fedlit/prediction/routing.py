"""Routing at test time: every layer a mixture of the members' personal layers. Jiang et al., IOP-FL, TMI 2023."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from torch import Tensor, nn

from fedlit.data.pictures import Unlabelled
from fedlit.errors import BadInput
from fedlit.messages import Expert
from fedlit.prediction.adaptation import Adaptation, check_adaptation
from fedlit.prediction.base import Learnt, Model, Predictor, at_rest
from fedlit.prediction.features import uncached
from fedlit.prediction.gates import FORMS
from fedlit.prediction.learner import pictures_of
from fedlit.prediction.members import alike, members, own_models, predictions, remembered
from fedlit.prediction.normalisation import lost_steps, scales_and_shifts, settle, use_batch_statistics
from fedlit.prediction.routed_network import Noted, Routed, choose_layers, mean_square, routable, route
from fedlit.prediction.steadiest import take_steadiest
from fedlit.prediction.unsupervised import Unsupervised
from fedlit.resident import Resident

STATISTICS = ("steadiest", "batch", "global")
TEACHERS = ("global", "all")


@dataclass(frozen=True)
class Routing(Predictor):
    """The global model of an unseen site, each convolution and linear layer mixed from the members' for each picture.

    Gate networks, and where asked the affine parameters of normalising layers, adapt to the site's unlabelled pictures;
    the experts, which are the members' own models, never change. None without a global model for the site.

    The defaults were chosen on phantoms (`phantom_iopfl`), sites left out in turn: in 18 federations of three seeds (64
    px, U-Net 8) Dice moved from the global model's by -0.003 to +0.012, on average by +0.002; with steps of 5e-4 by
    -0.007 to +0.023 (+0.003); in ten of them by TENT by -0.032 to +0.016 (-0.001). Of three further ones at 128 px one
    lost 0.008, one stayed and one gained 0.019. Views turned and mirrored, as published, made predictions of real sites
    worse, by up to 0.05, which phantoms had not shown.

    Args:
        gates: `difference`: W_global + sum_m g_m (W_m - W_global), g = tanh of a layer that starts at zero, so that it
            starts exactly at the global model; `softmax`: shares of the members and the global model that add up to
            one; `sigmoid`: each from 0 to 1, as published.
        anchor: weight of the mean squared gate in the objective, which holds gates near zero (difference).
        tune_norms: adapt the affine parameters of normalising layers too.
        statistics: of BatchNorm: `steadiest`: between the members' and the site's, see `take_steadiest`; `batch`: each
            batch's own, as published, and of the whole site once it has adapted to that; `global`: the members'.
        objective: what the gates make small.
        teacher: whom the prediction of the picture in another tone is to agree with: the `global` model with the
            `statistics` chosen here, or `all`: the members' models and the global one together, each with its own.
            Where the members' ensemble is worse than the global model, their word makes the routed network worse too.
        adaptation: on what, how long.
    """

    gates: Literal["difference", "softmax", "sigmoid"] = "difference"
    anchor: float = 0.01
    tune_norms: bool = False
    statistics: Literal["steadiest", "batch", "global"] = "steadiest"
    objective: Unsupervised = field(default_factory=lambda: Unsupervised(agreement=1.0, consistency=0.0))
    teacher: Literal["global", "all"] = "global"
    adaptation: Adaptation = field(default_factory=lambda: Adaptation(lr=3e-4, max_steps=64))

    is_final: ClassVar[bool] = True
    roles: ClassVar[tuple[str, ...]] = ("unseen",)
    needs = ("weights",)

    def __post_init__(self) -> None:
        check_adaptation(self.adaptation)
        if not isinstance(self.objective, Unsupervised):
            raise ValueError(
                f"objective={self.objective!r} names no class; add _target_: fedlit.prediction.Unsupervised to it"
            )
        if self.gates not in FORMS:
            raise ValueError(f"gates={self.gates!r} is not allowed; use one of {', '.join(FORMS)}")
        if self.statistics not in STATISTICS:
            raise ValueError(f"statistics={self.statistics!r} is not allowed; use one of {', '.join(STATISTICS)}")
        if self.teacher not in TEACHERS:
            raise ValueError(f"teacher={self.teacher!r} is not allowed; use one of {', '.join(TEACHERS)}")
        if self.teacher == "all" and not self.objective.agreement:
            raise ValueError("teacher=all teaches nothing without objective.agreement; set that above 0, or use global")
        if self.statistics == "steadiest" and self.adaptation.protocol == "online":
            raise ValueError("statistics=steadiest needs the whole set of pictures; online, use batch or global")
        if not 0 <= self.anchor < float("inf"):
            raise ValueError(f"anchor={self.anchor!r} is not allowed; use 0 or more")
        if self.anchor and self.gates != "difference":
            raise ValueError(f"anchor={self.anchor!r} pulls gates to 0, the global model with gates=difference; use 0")

    def check_network(self, resident: Resident) -> None:
        if not routable(resident.network, resident.trained()):
            raise nothing_to_route("no Conv2d, ConvTranspose2d or Linear")

    def remarks(self, learnt: Learnt, images: Unlabelled) -> Iterator[str]:
        routed, left = choose_layers(learnt, images)
        if left:
            name, why = next(iter(left.items()))
            yield (
                f"{len(left)} of {len(routed) + len(left)} convolutions and linear layers stay those of the global "
                f"model, such as {name}, {why}; Conv2d, ConvTranspose2d and Linear themselves are routed"
            )
        entries = [name for name in learnt.resident.parameters if name.rpartition(".")[0] in routed]
        yield from alike(learnt, entries, "in any layer that is routed")
        if self.tune_norms:
            yield from lost_steps(learnt.resident, self.adaptation.lr)

    def prepare(self, learnt: Learnt, images: Unlabelled | None) -> Model | None:
        experts = own_models(learnt)
        if learnt.shared is None:
            return None
        self.check_network(learnt.resident)
        images = pictures_of(learnt, images)
        names = choose_layers(learnt, images).routed
        if not names:
            raise nothing_to_route("no Conv2d, ConvTranspose2d or Linear whose rows are pictures")
        network = learnt.copy(learnt.shared)
        if self.statistics == "steadiest":
            take_steadiest(learnt, network, images, self.objective.noise)
        by_batch = use_batch_statistics(network) if self.statistics == "batch" else {}
        trained = {name: value for name, value in network.named_parameters() if name in learnt.resident.parameters}
        if self.tune_norms:
            for name in scales_and_shifts(learnt.resident):
                trained[name].requires_grad_(True)
        teacher = self._teacher(learnt, network, depends_on_its_batch=bool(by_batch))
        layers = route(
            network,
            names,
            {id(value): name for name, value in trained.items()},
            [expert.weights for expert in experts],
            form=FORMS[self.gates],
            seed=(learnt.seed, learnt.site, "gates"),
        )

        def objective(model: Model, batch: Tensor, seed: int) -> Tensor:
            with uncached(network):  # no view of a picture comes twice
                value = self.objective(model, batch, seed, learnt.num_classes, teacher=teacher)
            return value + self.anchor * mean_square(layers) if self.anchor else value

        whose = [expert.client for expert in experts] + ["global"] * (self.gates != "difference")
        noted = Noted(network, layers, len(whose))
        model = self.adaptation.adapt(learnt, network, images, objective)
        if by_batch and self.adaptation.protocol == "transductive":
            settle(learnt, network, by_batch, images)
        return Routed(model, noted, whose)

    def _teacher(self, learnt: Learnt, network: nn.Module, *, depends_on_its_batch: bool) -> Model | None:
        """What is said of pictures as they are; `network` is the global model as it begins to adapt."""
        if not self.objective.agreement:
            return None
        if self.teacher == "all":
            assert learnt.shared is not None
            return remembered(predictions(learnt, [*members(learnt), Expert("global", learnt.shared)]))
        model = learnt.lend(at_rest(network))
        return model if depends_on_its_batch else remembered(model)


def nothing_to_route(what: str) -> BadInput:
    """The error for a network without a layer that could be a mixture."""
    return BadInput(f"the network trains {what}: nothing to route; use prediction=tent or prediction=global")
