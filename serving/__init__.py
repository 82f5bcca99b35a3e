"""Serving: a bundle in, route decisions out.

Nothing here imports `training`, and nothing here needs torch, scikit-learn, lightgbm, pandas or mlflow.
"""
