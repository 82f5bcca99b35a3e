"""One environment for every test, whatever the machine's owner has set; processes that tests start inherit it."""

from __future__ import annotations

import os

_OURS_AND_OUR_LIBRARIES = ("ROUTER_", "LANGFUSE_", "OTEL_", "MLFLOW_", "LITELLM_", "PROMETHEUS_", "MAKE")
_ALONE = (
    "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", "HF_TOKEN", "HF_ENDPOINT", "BUNDLE", "MFLAGS",
    "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "TTY_COMPATIBLE",
    "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy",
)  # fmt: skip

SETTINGS = {
    # A service under test stores nothing, unless the test gives it a store.
    "ROUTER_STORE": "",
    # A slow machine is not what a test is about; those about a limit set their own.
    "ROUTER_EMBED_WAIT_MS": "60000",
    "ROUTER_FEEDBACK_SECONDS": "60",
    # What is printed does not depend on the terminal.
    "COLUMNS": "100",
    "LINES": "40",
    "NO_COLOR": "1",
    # Nothing leaves the machine, and no proxy stands before the tests' own servers.
    "NO_PROXY": "*",
    "no_proxy": "*",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    # Workers share the processors: several threads in each would only wait for one another.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def settle() -> None:
    """Makes it so, in this process; to be called before anything of the product or numpy is imported."""
    for name in [name for name in os.environ if name.startswith(_OURS_AND_OUR_LIBRARIES) or name in _ALONE]:
        del os.environ[name]
    # Processes that tests start would each compile the product again.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ.update(SETTINGS)
