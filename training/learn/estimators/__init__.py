"""Estimators of P(acceptable), each in numpy and in ONNX, each trained on whatever cells were observed."""
