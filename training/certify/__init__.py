"""Operating points: knobs that are chosen and certified on the calibration part."""
