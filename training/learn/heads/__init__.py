"""What estimates a target: one estimator of several, selected and calibrated, with and without the workflow tag."""
