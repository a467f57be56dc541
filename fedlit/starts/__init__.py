"""Where to begin: what the server makes of the first model before the first round; each start is one file."""

from fedlit.starts.base import Start, Study
from fedlit.starts.denoising import Denoising
from fedlit.starts.distillation import Distillation
from fedlit.starts.given import Given, TeacherWeights
from fedlit.starts.supervised import Supervised

__all__ = ["Denoising", "Distillation", "Given", "Start", "Study", "Supervised", "TeacherWeights"]
