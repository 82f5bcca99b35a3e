"""What the libraries of a cluster leave behind in this process, which is not ours to mend: marks of tests that use one."""

from __future__ import annotations

import pytest

IGNORED = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]
