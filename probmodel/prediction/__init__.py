"""Posterior + new rows → predictive distribution; how good it is."""

from probmodel.prediction.predictive import Prediction, predict

__all__ = ["Prediction", "predict"]
