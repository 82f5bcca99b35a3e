"""The documentation as it is read: it builds without a warning, no link is broken, nothing is fetched from elsewhere, and its
commands run.

Pages that other tests hold to their word (the first hour, logs, recipes, ...) are not typed again here.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from shutil import which
from threading import Thread
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import pytest
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File
from mkdocs.structure.pages import Page
from pydantic import BaseModel

from docs import hooks
from docs.api import PAGE, document, page
from docs.first_hour import write_gateway, write_harness
from docs.hooks import MERMAID
from serving.bundle.layout import BY_CANDIDATE
from serving.bundle.manifest import Certificate, Manifest, OperatingPoint
from tests.browser import PATIENCE_MS
from tests.conftest import QUICK, ROOT, router_train_here, setting
from tests.patience import until
from tests.serving.attacks.conftest import Attacked, running
from training.measure.bounds import clopper_pearson_upper

DOCS = ROOT / "docs"
TYPED = ("index.md", "bring-your-log.md", "log-to-certificate.md", "operations.md", "scale.md")
NOT_TYPED_HERE = {
    "router-serve --bundle models/current": "the service that the lines below it ask runs in a process of its own",
}
# What makes a command quick, and changes nothing of what is said about it.
QUICKLY = {"run": [*QUICK, "plan.draws=5"], "plan": ["plan.draws=5", "fit.estimators=workflow-table,ridge"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documentation."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


# --- links, as the repository has them


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$|`[^`\n]+`", "", text, flags=re.DOTALL | re.MULTILINE)


@cache
def anchors(path: Path) -> frozenset[str]:
    """What GitHub calls the headings of a page."""
    found: dict[str, int] = {}
    names = set()
    text = re.sub(r"^```.*?^```$", "", text_of(path), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        name = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        times = found[name] = found.get(name, -1) + 1
        names.add(f"{name}-{times}" if times else name)
    return frozenset(names)


READ = sorted(
    {*DOCS.rglob("*.md"), *ROOT.glob("*.md"), *(ROOT / name / "README.md" for name in ("data", "models", "examples"))}
    | {*(ROOT / "deploy").rglob("README.md")}
)


@pytest.mark.parametrize("path", READ, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_link_is_broken(path: Path) -> None:
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", without_code(text_of(path))):
        if re.match(r"(https?|mailto):", link):
            continue
        file, anchor = urldefrag(link)
        there = (path.parent / unquote(file)).resolve() if file else path
        if not there.exists() or (anchor and (there.suffix != ".md" or anchor not in anchors(there))):
            broken.append(link)
    assert broken == []


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# What is *there*, and `why`\n\n## Twice\n\n## Twice\n")
    assert anchors(tmp_path / "there.md") == {"what-is-there-and-why", "twice", "twice-1"}
    (tmp_path / "page.md").write_text("[a](there.md#twice-1) `[b](nowhere.md)` [c](there.md#thrice)")
    with pytest.raises(AssertionError, match=r"there\.md#thrice"):
        test_no_link_is_broken(tmp_path / "page.md")


# --- the site


class Read(HTMLParser):
    """What a page names: links, what is fetched with it, and its anchors."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.names: set[str] = {""}
        self.feed(text_of(path))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attributes}
        self.names |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif tag == "link" and given.get("rel") not in ("canonical", "prev", "next", "alternate"):
            self.fetched.append(given.get("href", ""))
        elif "src" in given:
            self.fetched.append(given["src"])


def pages(site: Path) -> list[Path]:
    """All but the one that stands for any address that is none."""
    return sorted(path for path in site.rglob("*.html") if path.name != "404.html")


def test_every_link_of_the_site_leads_somewhere_in_it(site: Path) -> None:
    read = {path: Read(path) for path in pages(site)}
    broken = []
    for path, found in read.items():
        for link in [*found.links, *found.fetched]:
            if urlsplit(link).scheme:
                continue
            file, anchor = urldefrag(link)
            there = (path.parent / unquote(urlsplit(file).path)).resolve() if file else path
            known = read[there].names if there in read else {""}
            if not there.exists() or unquote(anchor) not in known:
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []
    assert len(read) > 30


def test_no_page_or_style_names_another_origin_to_fetch_from(site: Path) -> None:
    fetched = {source for path in [*pages(site), site / "404.html"] for source in Read(path).fetched}
    assert {source for source in fetched if urlsplit(source).netloc} == set()
    styles = "".join(text_of(path) for path in site.rglob("*.css"))
    assert [url for url in re.findall(r"url\(([^)]+)\)", styles) if re.match(r"['\"]?(https?:)?//", url)] == []
    assert "@import" not in styles


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A folder behind a port of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_browser_that_reads_and_searches_asks_nobody_else(site: Path) -> None:
    program = next(filter(None, map(which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with served(site) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        reader = browser.new_page()
        reader.set_default_timeout(PATIENCE_MS)
        asked: list[str] = []
        wrong: list[str] = []
        reader.on("request", lambda request: asked.append(request.url))
        reader.on("pageerror", lambda error: wrong.append(str(error)))
        reader.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        reader.goto(urljoin(address, "index.html"), wait_until="networkidle")
        question = reader.locator("input[name=query]").first
        question.focus()

        def found() -> bool:
            question.fill("")
            question.press_sequentially("violation", delay=20)
            reader.wait_for_timeout(500)
            return reader.locator(".md-search-result__item").count() > 0

        until(found)
        reader.goto(urljoin(address, "architecture.html"), wait_until="networkidle")
        if MERMAID.is_file():
            reader.locator("div.mermaid").first.wait_for(timeout=30_000)
        else:
            assert reader.locator(".mermaid").count() == 0
            assert "flowchart LR" in reader.locator("article").inner_text()
        browser.close()
    assert wrong == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert any("search_index.json" in url for url in asked)


def test_diagrams_are_drawn_by_what_the_site_has_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Material fetches Mermaid from a CDN for a page with diagrams, unless the page has it already."""
    html = '<p>before</p><pre class="mermaid"><code>flowchart LR</code></pre>'
    config = MkDocsConfig()
    config.load_dict({"site_name": "x", "use_directory_urls": False})
    config.validate()
    deep = Page(None, File("decisions/page.md", None, str(tmp_path), use_directory_urls=False), config)
    monkeypatch.setattr(hooks, "MERMAID", tmp_path / "mermaid.min.js")
    assert "mermaid" not in hooks.on_page_content(html, deep)
    hooks.MERMAID.write_text("window.mermaid = {}")
    assert 'class="mermaid"' in hooks.on_page_content(html, deep)
    assert hooks.on_page_content(html, deep).endswith('<script src="../assets/mermaid.min.js"></script>')
    assert hooks.on_page_content("<p>none</p>", deep) == "<p>none</p>"


def test_what_a_page_links_to_in_the_repository_is_in_the_site(site: Path) -> None:
    copy = site / "repository" / "deploy" / "compose" / "prometheus" / "alerts.yml"
    assert copy.read_bytes() == (ROOT / "deploy" / "compose" / "prometheus" / "alerts.yml").read_bytes()
    assert 'href="repository/deploy/compose/prometheus/alerts.yml"' in text_of(site / "recipes.html")
    assert 'id="the-catalogue"' in text_of(site / "repository" / "data" / "index.html")


# --- what pages say of the code


def test_the_reference_of_the_api_is_of_the_service_of_today() -> None:
    assert text_of(PAGE) == page(document()), "python -m docs.api writes it"


def first_cells(name: str, heading: str) -> list[str]:
    """The names in the first column of the first table under a heading."""
    section = re.split(r"\n#+ ", text_of(DOCS / name).split(f"# {heading}\n", 1)[1])[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    return [found for cell in cells for found in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize(
    ("name", "heading", "model"),
    [
        ("bundle-format.md", "manifest.json", Manifest),
        ("bundle-format.md", "An operating point", OperatingPoint),
        ("certificates.md", "The figures in it", Certificate),
    ],
)
def test_every_field_is_described(name: str, heading: str, model: type[BaseModel]) -> None:
    assert sorted(first_cells(name, heading)) == sorted(model.model_fields)


def test_the_heads_columns_are_described() -> None:
    assert first_cells("bundle-format.md", "The head") == list(BY_CANDIDATE)


def test_so_many_requests_without_a_violation_certify_what_is_said() -> None:
    table = re.findall(r"^\| ([\d.]+)% \| (\d+)", text_of(DOCS / "log-to-certificate.md"), flags=re.MULTILINE)
    assert len(table) == 4
    for percent, requests in table:
        alpha, n = float(percent) / 100, int(requests)
        assert clopper_pearson_upper(0, n, 0.1) <= alpha < clopper_pearson_upper(0, n - 1, 0.1)
    said = text_of(DOCS / "certificates.md")
    for n in (45, 500):
        assert f"{n} requests give" in said or f"{n} give" in said
        assert f"{clopper_pearson_upper(0, n, 0.1):.2%}" in said


# --- what pages have one type


def blocks(name: str) -> list[str]:
    """Each line of a page's blocks of commands."""
    found = re.findall(r"```sh\n(.*?)```", text_of(DOCS / name), flags=re.DOTALL)
    return [line.strip() for block in found for line in block.splitlines() if line.strip()]


def test_every_page_with_commands_is_typed_here_or_by_another_test() -> None:
    elsewhere = {"logs.md", "recipes.md", "serving.md", "evidence.md", "first-hour.md", "litellm.md", "benchmarks.md"}
    assert {path.name for path in DOCS.glob("*.md") if blocks(path.name)} - elsewhere == set(TYPED)


def type_in(folder: Path, line: str, service: Attacked | None = None) -> None:
    """Types a command of a page in a folder; fails unless it ends well."""
    if line in NOT_TYPED_HERE:
        return
    words = line.split()
    if words[0] == "router-train":
        quickly = setting(*QUICKLY.get(words[1], ()))
        done = router_train_here(*words[1:], *quickly, folder=folder)
    elif words[0] == "make":
        # -o: as if everything were installed
        command = ["make", "--dry-run", "-o", ".venv/.ready", *words[1:]]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    else:
        if words[0] == "curl":
            assert service is not None
            line = line.replace("curl -s", "curl -sS --fail-with-body").replace("http://", "")
            line = line.replace("localhost:8080", f"{service.client.base_url.host}:{service.client.base_url.port}")
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-c", line], cwd=folder, env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
            capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which "Bring your log" was typed from its beginning to its end."""
    folder = tmp_path_factory.mktemp("typed")
    write_harness(folder / "harness.csv", questions=300)
    write_gateway(folder / "gateway.jsonl", requests=400)
    encoders = ROOT / ".cache" / "encoders"
    encoders.mkdir(parents=True, exist_ok=True)
    (folder / ".cache").mkdir()
    (folder / ".cache" / "encoders").symlink_to(encoders.resolve())
    for line in blocks("bring-your-log.md"):
        type_in(folder, line)
    return folder


def test_bring_your_log_ends_with_a_bundle(folder: Path) -> None:
    assert (folder / "models" / "current" / "manifest.json").is_file()
    assert "grade:stars" in text_of(folder / "logs.toml")


def test_from_log_to_certificate(folder: Path) -> None:
    before = (folder / "models" / "current").resolve()
    for line in blocks("log-to-certificate.md"):
        type_in(folder, line)
    made = [path for path in (folder / "models").glob("*/manifest.json") if not path.parent.is_symlink()]
    assert len(made) == 2, "set-point made one more"
    assert (folder / "models" / "current").resolve() == before, "and rollback went back"
    assert (folder / "plan.jsonl").is_file()


def test_an_imported_log_is_trained_on_and_added_to(folder: Path) -> None:
    rows = [json.loads(line)["req"] for line in text_of(folder / "gateway.jsonl").splitlines()[:60]]
    today = [
        {
            "request_id": f"today-{number}", "timestamp": f"2026-06-01T{number % 24:02d}:{number:02d}:00Z",
            "messages": row["body"]["messages"], "candidate": row["body"]["model"],
            "quality": number % 2, "cost_usd": 0.001,
        }
        for number, row in enumerate(rows)
    ]  # fmt: skip
    (folder / "today.jsonl").write_text("".join(json.dumps(row) + "\n" for row in today), encoding="utf-8")
    for line in blocks("scale.md"):
        type_in(folder, line)
    assert (folder / "imported" / "_account.json").is_file()
    assert len(list((folder / "models" / "kept").iterdir())) > 2


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Attacked]:
    (folder / "data").mkdir()
    with running(folder / "models" / "current", folder, store=folder / "data" / "decisions.db") as found:
        for _ in range(5):
            made = found.route(prompt="Write SQL: monthly revenue per region.")
            told = found.post("/v1/feedback", {"decision_id": made["id"], "accepted": True, "cost_usd": 0.001})
            assert told.status_code == 200, told.text
        yield found


@pytest.mark.parametrize("line", [line for name in ("index.md", "operations.md") for line in blocks(name)])
def test_what_is_typed_at_a_service(line: str, folder: Path, service: Attacked) -> None:
    type_in(folder, line, service)
