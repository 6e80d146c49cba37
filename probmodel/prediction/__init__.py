"""Predictive distribution of new rows given a posterior, and scores of its quality."""

from probmodel.protocols.namespaces import on_first_use

with on_first_use(__name__):
    from probmodel.prediction.predictive import Prediction, predict

__all__ = ["Prediction", "predict"]
