"""What of an experiment does not fit together although each part of it is right: one place for check, plan and run."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from omegaconf import DictConfig

from fedlit.aggregation import ROOT
from fedlit.aggregation.base import check_stretched
from fedlit.algorithms import Algorithm, Sampling
from fedlit.config import bind, build
from fedlit.data.site import Site, num_pictures
from fedlit.errors import BadInput
from fedlit.judging import candidates_of
from fedlit.privacy import CaseLevel, CasePrivacy
from fedlit.privacy.drawing import cases_of
from fedlit.privacy.per_case import not_told_apart
from fedlit.resident import Resident, check_keep_local
from fedlit.transforms import Channel, Transform
from fedlit.weights import select


def refuse(misfits: Iterable[str]) -> None:
    """Raises BadInput where there are some, one a line."""
    lines = list(dict.fromkeys(misfits))
    if lines:
        raise BadInput("\n".join(lines))


def of_members(config: DictConfig, algorithm: Algorithm, participants: Sequence[Site] | None) -> Iterator[str]:
    """What so many members, with so many pictures, cannot do: the rule of aggregation, and the transforms of updates.

    Args:
        participants: the sites that train, see `assembly.participating`; None where they are not known, and then
            `clients_per_round` is the most that there are in a round.
    """
    cohort = of_a_round(config, algorithm, participants)
    if cohort is not None:
        yield from told(lambda: algorithm.aggregate.coefficients(cohort))
    if algorithm.aggregate.needs_validation:
        without = ", ".join(site.name for site in participants or () if not len(site.val))
        if without:
            yield f"algorithm.aggregate: {algorithm.aggregate} needs validation pictures, which these lack: {without}"
    predictors = {str(name): build(node) for name, node in config.prediction.items()}
    if participants:
        judges = [site.name for site in participants if len(site.val) and site.name != ROOT]
        for name, predictor in predictors.items():
            needs = {"scores", "trials"} & {*predictor.needs}
            if needs and not judges:
                yield f"prediction.{name}: it is chosen by validation cases, and no member has any"
            elif len(needs) == 2 and len(judges) == 1:
                yield (
                    f"prediction.{name}: a candidate is chosen by validation cases, none of the member that is left "
                    f"out in turn, and only {judges[0]} has any; leave best_member out of its candidates"
                )
    yield from told(lambda: candidates_of(predictors))
    settings = {str(key): value for key, value in config.items()}
    yield from (f"algorithm: {problem}" for problem in algorithm.problems(settings))
    yield from of_optimizer(config)
    num_members = None if participants is None else sum(site.name != ROOT for site in participants)
    before: list[Transform] = []
    for name, transform in transforms(config).items():
        problems = transform.problems(algorithm, settings, before, num_members)
        yield from (f"transform.{name}: {problem}" for problem in problems)
        before.append(transform)
    if config.privacy is None:
        return
    if not getattr(build(config.loss), "is_mean_over_pictures", False):
        yield (
            f"privacy: the loss {config.loss._target_} is no mean over pictures, or does not say so by "
            "`is_mean_over_pictures`, and would mix the cases of a batch; choose one that does, such as dice_bce"
        )
    for name, here in case_privacy(config, participants or ()).items():
        yield from (f"privacy: {name}: {problem}" for problem in here.unmet())


def of_optimizer(config: DictConfig) -> Iterator[str]:
    """What the optimizer refuses, and a momentum with which steps would grow without end."""
    momentum = config.optimizer.get("momentum", 0)
    if isinstance(momentum, int | float) and not 0 <= momentum < 1:
        yield f"optimizer.momentum={momentum:g} is not allowed; use 0 or more, below 1"
        return
    try:
        bind(config.optimizer)([torch.nn.Parameter(torch.zeros(1))])
    except (TypeError, ValueError, RuntimeError) as error:
        yield f"optimizer: {config.optimizer._target_}: {error}"


def of_network(config: DictConfig, algorithm: Algorithm, resident: Resident) -> Iterator[str]:
    """What the network's entries forbid: patterns that match none of them, or all; a rule that they do not bear."""
    yield from told(lambda: kept_entries(config, algorithm, resident))
    if algorithm.aggregate.stretches:
        yield from told(lambda: check_stretched(algorithm.aggregate, shared_buffers(config, algorithm, resident)))
    if config.privacy is not None:
        yield from not_told_apart(resident)
    for name, node in config.prediction.items():
        yield from (f"prediction.{name}: {text}" for text in told(partial(build(node).check_network, resident)))


def of_pictures(part: object, sizes: Iterable[tuple[int, int] | None]) -> Iterator[str]:
    """What an algorithm or a network finds too small among pictures of these (H, W), None where one is not known.

    Anything is large enough for a network without `check_size`.
    """
    check_size: Callable[[tuple[int, int]], object] = getattr(part, "check_size", lambda size: None)
    for size in sizes:
        if size is not None:
            yield from told(partial(check_size, size))


def training_size(source: object) -> tuple[int, int] | None:
    """(H, W) of the pictures that are trained on, augmented; None where they differ or a source cannot tell."""
    return source.training_size() if hasattr(source, "training_size") else None


def told(check: Callable[[], object]) -> list[str]:
    """What a check refuses."""
    try:
        check()
    except BadInput as error:
        return [str(error)]
    return []


def of_a_round(config: DictConfig, algorithm: Algorithm, participants: Sequence[Site] | None) -> dict[str, int] | None:
    """Training pictures of the clients of the first round, by name; None where it is not known how many there are."""
    if participants is not None:
        cohort = sampling(config)([site.name for site in participants], 0)
        return num_pictures(site for site in participants if site.name in cohort)
    if config.clients_per_round is None:
        return None
    names = [f"client {place}" for place in range(config.clients_per_round)]
    return dict.fromkeys([*names, *([ROOT] if algorithm.aggregate.needs_root else [])], config.batch_size)


def sampling(config: DictConfig) -> Sampling:
    return Sampling(config.clients_per_round, config.fraction_train, config.seed)


def transforms(config: DictConfig) -> Mapping[str, Transform]:
    """By name, in order."""
    return {str(name): build(node) for name, node in config.transform.items()}


def case_privacy(config: DictConfig, sites: Sequence[Site]) -> dict[str, CasePrivacy]:
    """The privacy of the cases of each site, if the planned rounds are run; none where the config asks for none.

    The server's own site is left out.
    """
    if config.privacy is None:
        return {}
    settings: CaseLevel = build(config.privacy)
    names, draw, found = [site.name for site in sites], sampling(config), {}
    num_rounds = Counter(name for round in range(config.num_rounds) for name in draw(names, round))
    expected = config.batch_size * config.accumulate_batches
    for site in sites:
        num_cases = len(cases_of(site.train))
        steps = config.local_steps or config.local_epochs * math.ceil(num_cases / expected)
        if site.name != ROOT:
            found[site.name] = settings.at(num_cases, expected, steps, num_rounds[site.name])
    return found


def open_channel(config: DictConfig) -> Channel:
    """What happens to updates on their way."""
    return Channel(tuple(transforms(config).values()), config.seed)


def kept_entries(config: DictConfig, algorithm: Algorithm, resident: Resident) -> tuple[str, ...]:
    """Patterns of the entries that stay at their site: those asked for, the float buffers with `buffers: local`, and
    those that the algorithm leaves there.

    Raises:
        BadInput: one matches nothing, or all together match everything.
    """
    buffers: Any = resident.buffers if config.buffers == "local" else ()
    patterns = (*config.keep_local, *buffers, *algorithm.kept(resident))
    check_keep_local(resident.entries, patterns)
    return patterns


def shared_buffers(config: DictConfig, algorithm: Algorithm, resident: Resident) -> list[str]:
    """The float buffers that do not stay at their site. Raises as `kept_entries` does."""
    kept = select(resident.buffers, kept_entries(config, algorithm, resident))
    return [name for name in resident.buffers if name not in kept]
