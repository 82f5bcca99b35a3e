"""From prepared outcomes to calibrated heads and expected costs, and to the one ONNX graph that serves them."""
