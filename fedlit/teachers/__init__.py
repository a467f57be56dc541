"""Teachers at the server, what they are asked, and their answers as something to learn from."""

from fedlit.teachers.automatic import Everywhere, Rule
from fedlit.teachers.drawn import Ellipses, MeanLungs
from fedlit.teachers.prompts import MaskBoxes, MaskPoints, PriorBoxes, Prompts
from fedlit.teachers.teacher import SAMTeacher, Teacher

__all__ = [
    "Ellipses",
    "Everywhere",
    "MaskBoxes",
    "MaskPoints",
    "MeanLungs",
    "PriorBoxes",
    "Prompts",
    "Rule",
    "SAMTeacher",
    "Teacher",
]
