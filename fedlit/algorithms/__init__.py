"""What clients and the server do in a round: each algorithm is one file."""

from fedlit.algorithms.afl import AFL
from fedlit.algorithms.apfl import APFL
from fedlit.algorithms.base import Algorithm, Sampling
from fedlit.algorithms.centralized import Centralized
from fedlit.algorithms.clock import Clock
from fedlit.algorithms.ditto import Ditto
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.fedavgm import FedAvgM
from fedlit.algorithms.fedbn import FedBN
from fedlit.algorithms.fedbuff import FedBuff
from fedlit.algorithms.feddc import FedDC
from fedlit.algorithms.feddyn import FedDyn
from fedlit.algorithms.fednova import FedNova
from fedlit.algorithms.fedopt import FedAdagrad, FedAdam, FedYogi
from fedlit.algorithms.fedper import FedPer
from fedlit.algorithms.fedprox import FedProx
from fedlit.algorithms.fedrep import FedRep
from fedlit.algorithms.finetuning import FineTuning
from fedlit.algorithms.frequencymixing import FrequencyMixing
from fedlit.algorithms.harmofl import HarmoFL
from fedlit.algorithms.iopfl import IOPFL
from fedlit.algorithms.lgfedavg import LGFedAvg
from fedlit.algorithms.local import Local
from fedlit.algorithms.moon import MOON
from fedlit.algorithms.pfedme import PFedMe
from fedlit.algorithms.qfedavg import QFedAvg
from fedlit.algorithms.scaffold import Scaffold

__all__ = [
    "AFL",
    "APFL",
    "IOPFL",
    "MOON",
    "Algorithm",
    "Centralized",
    "Clock",
    "Ditto",
    "FedAdagrad",
    "FedAdam",
    "FedAvg",
    "FedAvgM",
    "FedBN",
    "FedBuff",
    "FedDC",
    "FedDyn",
    "FedNova",
    "FedPer",
    "FedProx",
    "FedRep",
    "FedYogi",
    "FineTuning",
    "FrequencyMixing",
    "HarmoFL",
    "LGFedAvg",
    "Local",
    "PFedMe",
    "QFedAvg",
    "Sampling",
    "Scaffold",
]
