"""The kinds of arrays, by one name each; a docstring says the shape."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Floats32 = NDArray[np.float32]  # what a graph takes and gives
AnyFloats = NDArray[np.floating]  # either of the two
Bools = NDArray[np.bool_]
Columns = NDArray[np.intp]  # places in an array
