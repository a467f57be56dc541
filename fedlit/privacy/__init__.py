"""Differential privacy of every case: local training that nobody could tell from training without that patient."""

from fedlit.privacy.case_level import CaseLevel, CasePrivacy
from fedlit.privacy.ledger import Ledger

__all__ = ["CaseLevel", "CasePrivacy", "Ledger"]
