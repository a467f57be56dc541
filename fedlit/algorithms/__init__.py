"""What clients and the server do in a round: each algorithm is one file."""

from fedlit.algorithms.base import Algorithm, Sampling
from fedlit.algorithms.centralized import Centralized
from fedlit.algorithms.fedavg import FedAvg
from fedlit.algorithms.fedprox import FedProx
from fedlit.algorithms.local import Local

__all__ = ["Algorithm", "Centralized", "FedAvg", "FedProx", "Local", "Sampling"]
