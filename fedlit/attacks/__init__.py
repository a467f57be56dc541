"""What malicious members do, to study how a federation withstands it: attacks on updates and on labels."""

from fedlit.attacks.attacked import Attacked
from fedlit.attacks.base import Attack, Honest
from fedlit.attacks.collusion import ALittleIsEnough
from fedlit.attacks.labels import LabelFlip, MaskErosion
from fedlit.attacks.updates import Gaussian, Scaled, SignFlip

__all__ = [
    "ALittleIsEnough",
    "Attack",
    "Attacked",
    "Gaussian",
    "Honest",
    "LabelFlip",
    "MaskErosion",
    "Scaled",
    "SignFlip",
]
