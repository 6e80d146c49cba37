"""Predictive distribution of new rows given a posterior, and scores of its quality."""

from probmodel.prediction.predictive import Prediction, predict

__all__ = ["Prediction", "predict"]
