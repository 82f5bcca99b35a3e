"""Keys and a number of each, held as 64-bit hashes: 16 bytes for each, whatever they stand for is long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from training.logs.typed import Mask

Hashes = NDArray[np.uint64]


class Known:
    """Keys with a value each, (n,) uint64 both: sorted runs that are merged when they are as long as the next one."""

    def __init__(self) -> None:
        self._runs: list[tuple[Hashes, Hashes]] = []

    def find(self, keys: Hashes) -> tuple[Mask, Hashes]:
        """Which of the keys are known, and the value of each that is (0 for the others)."""
        known, values = np.zeros(len(keys), dtype=np.bool_), np.zeros(len(keys), dtype=np.uint64)
        for run, run_values in self._runs:
            place = np.minimum(np.searchsorted(run, keys), len(run) - 1)
            here = run[place] == keys
            known |= here
            values[here] = run_values[place[here]]
        return known, values

    def add(self, keys: Hashes, values: Hashes) -> None:
        """Adds keys that are not known yet; of equal ones among them the first counts."""
        if not len(keys):
            return
        sorted_keys, first = np.unique(keys, return_index=True)
        self._runs.append((sorted_keys, values[first]))
        while len(self._runs) > 1 and len(self._runs[-1][0]) >= len(self._runs[-2][0]):
            later, earlier = self._runs.pop(), self._runs.pop()
            merged = np.concatenate([earlier[0], later[0]])
            order = np.argsort(merged, kind="stable")
            self._runs.append((merged[order], np.concatenate([earlier[1], later[1]])[order]))


def hashes_of(values: pd.Series[Any] | pd.DataFrame) -> Hashes:
    """(n,) hashes of the values, or of the rows; 0.0 and -0.0 are the same."""
    if isinstance(values, pd.DataFrame):
        floats = values.select_dtypes("float64")
        values = values.assign(**{str(name): floats[name] + 0.0 for name in floats})
    return pd.util.hash_pandas_object(values, index=False).to_numpy().astype(np.uint64)
