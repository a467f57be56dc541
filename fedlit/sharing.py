"""What members share once, after the kept round, with predictors that need it: the models of their own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import blake2b
from pathlib import Path
from re import sub
from typing import Any

from fedlit.errors import BadInput
from fedlit.federation import Federation
from fedlit.judging import AsUnseen, Judge, ModelOf
from fedlit.messages import Expert, Server, header, restore, size, tensors
from fedlit.metrics import Scoring
from fedlit.prediction import Predictor
from fedlit.prediction.features import site_statistics
from fedlit.prediction.members import is_finite, own_model
from fedlit.prediction.told import dice_at, trial_of, trials
from fedlit.weights import load, save


def share(
    federation: Federation,
    server: Server,
    needs: Collection[str],
    *,
    scoring: Scoring,
    classes: Sequence[str],
    candidates: Mapping[str, Predictor] | None = None,
) -> dict[str, Expert]:
    """What every member shares, by its name; equal in every process.

    Args:
        needs: see `Predictor.needs`.
        candidates: what is tried at every member; with any, `needs` holds `trials`.

    Raises:
        BadInput: no member has a personal model, or none has the validation cases by which something is chosen.
    """
    members = sorted(federation.fleet.members)
    experts = federation.fleet.gather(partial(_expert, federation, server, needs), members)
    experts = _sound(experts, members, federation.fleet.watch.warn)
    judge = Judge(federation, server, scoring, classes)
    if "scores" in needs:
        experts = _judged(judge, experts)
    if candidates and len(experts) > 1:
        experts = _tried(judge, experts, candidates)
    return experts


def _sound(experts: Mapping[str, Expert], members: Sequence[str], warn: Callable[[str], None]) -> dict[str, Expert]:
    """Those that hold numbers; what is peculiar about them is told."""
    if not experts:
        raise BadInput(
            "no member has a personal model to share: the algorithm makes none; train with one that does, such as "
            "algorithm=iopfl, or with keep_local"
        )
    for name in members:
        if name not in experts:
            warn(f"{name} has no personal model, it completed no round: predictions for other sites do without")
        elif not is_finite(experts[name]):
            warn(f"the personal model of {name} holds NaN or Inf: predictions for other sites do without")
    sound = {name: expert for name, expert in experts.items() if is_finite(expert)}
    if not sound:
        raise BadInput("every personal model holds NaN or Inf: train again, with a smaller lr")
    if all(expert.scalars.get("share") == 0 for expert in sound.values()):
        warn(
            "no member takes anything of a model of its own (all shares are 0): every personal model is the global "
            "one, and so is what is made of them; routing mixes what members have learnt by themselves"
        )
    if len(sound) == 1:
        warn(f"only {min(sound)} shares a personal model: it is weighed against the global one alone")
    return sound


def _judged(judge: Judge, experts: Mapping[str, Expert]) -> dict[str, Expert]:
    """With how every member's personal model does at all members."""
    dice = judge.dice({name: ModelOf(name) for name in experts}, experts)
    return {
        name: _told(expert, **{dice_at(site): value for site, value in dice[name].items()})
        for name, expert in experts.items()
    }


def _tried(judge: Judge, experts: Mapping[str, Expert], candidates: Mapping[str, Predictor]) -> dict[str, Expert]:
    """With how each candidate does at the member, as if that were unseen."""
    sites = judge.federation.sites
    dice = judge.dice({name: AsUnseen(candidate, sites) for name, candidate in candidates.items()}, experts)
    return {
        member: _told(expert, **{trial_of(name): of[member] for name, of in dice.items() if member in of})
        for member, expert in experts.items()
    }


def _told(expert: Expert, **scalars: float) -> Expert:
    return replace(expert, scalars={**expert.scalars, **scalars})


def _expert(federation: Federation, server: Server, needs: Collection[str], name: str) -> Expert | None:
    expert = own_model(name, server, federation.fleet.memories.get(name, {}), federation.kept)
    if expert is None or "features" not in needs:
        return expert
    pictures = federation.fleet.clients[name].site.train.unlabelled()
    learnt = federation.learnt(server, name, num_classes=1)
    return replace(expert, slots={"features": site_statistics(learnt, pictures)})


def bytes_shared(experts: Mapping[str, Expert]) -> tuple[int, int]:
    """(bytes up, bytes down): every member's message once, and to members that judge models those of the others."""
    sizes = {name: size(expert) for name, expert in experts.items()}
    judges = [name for name in experts if trials(experts[name]) or dice_at(name) in experts[name].scalars]
    return sum(sizes.values()), sum(sum(sizes.values()) - sizes[name] for name in judges)


def sharing_summary(
    before: Mapping[str, Any] | None,
    experts: Mapping[str, Expert],
    needs: Collection[str],
    needing: Sequence[str],
    choices: Mapping[str, str],
) -> dict[str, Any]:
    """What summary.json says of it.

    Args:
        before: what it said when members had last shared something of this state.
        experts: all that they have shared of it; what they had shared before is not sent again.
        needing: the predictors that need it.
        choices: what those that choose among others have chosen.
    """
    old = before or {}
    up, down = bytes_shared(experts)
    return {
        "members": sorted(experts),
        "what": sorted({*old.get("what", ()), *needs}),
        "for": list(dict.fromkeys((*old.get("for", ()), *needing))),
        "choices": {**old.get("choices", {}), **choices},
        "bytes_up": up,
        "bytes_down": down,
    }


def joined(old: Mapping[str, Expert], new: Mapping[str, Expert]) -> dict[str, Expert]:
    """What members have shared of one state at one time and another."""
    return {
        name: replace(
            expert,
            slots={**(old[name].slots if name in old else {}), **expert.slots},
            scalars={**(old[name].scalars if name in old else {}), **expert.scalars},
        )
        for name, expert in new.items()
    }


def save_experts(directory: Path, experts: Mapping[str, Expert], round: int) -> None:
    """What the server was sent after a round, one file a member, in the place of what was there."""
    files = {file_of(directory, name): expert for name, expert in experts.items()}
    directory.mkdir(parents=True, exist_ok=True)
    for path, expert in files.items():
        save(path, tensors(expert), header(expert) | {"round": round})
    for old in directory.glob("*.safetensors"):
        if old not in files:
            old.unlink()


def load_experts(directory: Path, round: int) -> dict[str, Expert]:
    """What `save_experts` wrote after that round; nothing where no member has shared anything of it."""
    loaded = [load(path) for path in sorted(directory.glob("*.safetensors"))]
    experts = [restore(Expert, told, flat) for flat, told in loaded if told.pop("round", None) == round]
    return {expert.client: expert for expert in sorted(experts, key=lambda expert: expert.client)}


def file_of(directory: Path, name: str) -> Path:
    """Readable, and unique by a hash."""
    readable, digest = sub(r"[^A-Za-z0-9_]+", "_", name)[:40], blake2b(name.encode(), digest_size=6).hexdigest()
    return directory / f"{readable}-{digest}.safetensors"
