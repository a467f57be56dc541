"""From what was learnt to a model for one site: each predictor is one file."""

from fedlit.prediction.adabn import AdaBN
from fedlit.prediction.adaptation import Adaptation
from fedlit.prediction.base import Learnt, Mixture, Model, Predictor
from fedlit.prediction.best_member import BestMember
from fedlit.prediction.chosen import Chosen
from fedlit.prediction.ensemble import Ensemble
from fedlit.prediction.fedthe import FedTHE
from fedlit.prediction.global_model import Global
from fedlit.prediction.nearest_member import NearestMember
from fedlit.prediction.personal import Personal
from fedlit.prediction.routing import Routing
from fedlit.prediction.sar import SAR
from fedlit.prediction.tent import TENT
from fedlit.prediction.test_time_augmentation import TTA
from fedlit.prediction.uniform_average import UniformAverage
from fedlit.prediction.unsupervised import Tones, Unsupervised

__all__ = [
    "SAR",
    "TENT",
    "TTA",
    "AdaBN",
    "Adaptation",
    "BestMember",
    "Chosen",
    "Ensemble",
    "FedTHE",
    "Global",
    "Learnt",
    "Mixture",
    "Model",
    "NearestMember",
    "Personal",
    "Predictor",
    "Routing",
    "Tones",
    "UniformAverage",
    "Unsupervised",
]
