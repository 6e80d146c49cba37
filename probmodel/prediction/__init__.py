"""Predictive distribution of new rows given a posterior, and scores of its quality."""

from typing import TYPE_CHECKING

from probmodel.protocols.session.namespaces import on_first_use

if TYPE_CHECKING:
    from probmodel.prediction.predictive import Prediction, predict

on_first_use(__name__)

__all__ = ["Prediction", "predict"]
