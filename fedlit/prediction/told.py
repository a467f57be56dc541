"""What members tell of models by their validation cases: the names of these scalars of an `Expert`."""

from __future__ import annotations

from fedlit.messages import Expert


def dice_at(member: str) -> str:
    """The Dice of its personal model on a member's validation cases."""
    return f"dice at {member}"


def judgements(expert: Expert) -> set[str]:
    """By which members its personal model is judged, as `dice_at` names them."""
    return _beginning(expert, dice_at(""))


def trial_of(candidate: str) -> str:
    """The Dice of a candidate of `chosen` at this member, as if that were unseen."""
    return f"as unseen: {candidate}"


def trials(expert: Expert) -> set[str]:
    """Which candidates were tried at this member, as `trial_of` names them."""
    return _beginning(expert, trial_of(""))


def _beginning(expert: Expert, words: str) -> set[str]:
    return {name for name in expert.scalars if name.startswith(words)}
