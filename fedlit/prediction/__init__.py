"""From what was learnt to a model for one site: each predictor is one file."""

from fedlit.prediction.base import Learnt, Model, Predictor
from fedlit.prediction.global_model import Global
from fedlit.prediction.personal import Personal

__all__ = ["Global", "Learnt", "Model", "Personal", "Predictor"]
