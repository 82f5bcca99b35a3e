"""The plug-in's hooks against the versions of LiteLLM that are supported, by their files: nothing of them is installed."""

from __future__ import annotations

import ast
import zipfile
from functools import lru_cache

import pytest

from tests.conftest import ROOT
from tests.serving.integrations.litellm.proxy import ENVIRONMENT

VERSIONS = ("1.106.12", "1.108.7", "1.110.2")
PLUGIN = ROOT / "serving" / "integrations" / "litellm" / "plugin.py"
CALLBACK = "litellm/integrations/custom_logger.py"
# Who calls each hook of ours, in the first of these files that there is.
CALLERS = {
    "async_pre_call_hook": ("litellm/proxy/utils.py",),
    "async_post_call_response_headers_hook": ("litellm/proxy/utils.py",),
    "async_filter_deployments": ("litellm/router_rust/steps/callbacks.py", "litellm/router.py"),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef

pytestmark = pytest.mark.skipif(
    not (ENVIRONMENT / "wheels").is_dir(), reason="LiteLLM's files are not there (make .venv-litellm/.ready)"
)


@lru_cache(maxsize=64)
def source(version: str, path: str) -> str | None:
    """A file of a version, None where that has none."""
    [wheel] = (ENVIRONMENT / "wheels").glob(f"litellm-{version}-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        return opened.read(path).decode() if path in opened.namelist() else None


def functions(text: str | None) -> dict[str, Function]:
    """Every function and method of a file; of several with one name the last."""
    nodes = ast.walk(ast.parse(text or ""))
    return {one.name: one for one in nodes if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef)}


def parameters(function: Function) -> list[str]:
    return [one.arg for one in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]


def hooks() -> dict[str, Function]:
    """What the plug-in's class defines of LiteLLM's hooks, by itself."""
    [leaf] = [one for one in ast.parse(PLUGIN.read_text()).body if isinstance(one, ast.ClassDef)]
    named = {one.name: one for one in leaf.body if isinstance(one, ast.AsyncFunctionDef | ast.FunctionDef)}
    return {name: one for name, one in named.items() if name.startswith(("async_", "log_"))}


def test_every_hook_is_defined_on_the_class_that_is_registered() -> None:
    assert set(CALLERS) <= set(hooks())


@pytest.mark.parametrize("version", VERSIONS)
def test_the_hooks_have_litellms_parameters(version: str) -> None:
    theirs = functions(source(version, CALLBACK))
    for name, hook in hooks().items():
        assert name in theirs, f"LiteLLM {version} has no hook {name}"
        assert parameters(hook) == parameters(theirs[name]), f"{name} of LiteLLM {version}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("hook", CALLERS)
def test_the_hooks_are_called_by_names_that_they_have(version: str, hook: str) -> None:
    text = next(text for path in CALLERS[hook] if (text := source(version, path)) is not None and f".{hook}(" in text)
    calls = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == hook
    ]
    # One call hands on what LiteLLM's own limiter takes beside, and the plug-in is never that.
    named = [
        {word.arg for word in call.keywords}
        for call in calls
        if not any(w.arg == "endpoint_type" for w in call.keywords)
    ]
    assert named
    for words in named:
        assert words <= set(parameters(hooks()[hook]))


@pytest.mark.parametrize("version", VERSIONS)
def test_what_else_is_used_of_litellm_is_there(version: str) -> None:
    checks = functions(source(version, "litellm/proxy/auth/auth_checks.py"))
    asked = {"model", "llm_model_list", "valid_token", "llm_router"}
    for name in ("can_key_call_model", "can_key_call_resolved_model"):
        assert asked <= set(parameters(checks[name])), name
    types = source(version, "litellm/proxy/_types.py") or ""
    assert "all_team_models" in types
    assert "class ProxyException(" in types + (source(version, "litellm/proxy/exceptions.py") or "")
    retries = (source(version, "litellm/router_rust/invoke/walk.py") or "") + (
        source(version, "litellm/router.py") or ""
    )
    for key in ("previous_models", "deployment_id", "request_retry_count"):
        assert f'"{key}"' in retries, key
    assert "get_model_id_from_response_id" in functions(source(version, "litellm/responses/utils.py"))
    requests = source(version, "litellm/proxy/litellm_pre_call_utils.py") or ""
    for key in ("requester_metadata", "spend_logs_metadata"):
        assert f'"{key}"' in requests, key
