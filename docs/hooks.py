"""What MkDocs has to be told to build these pages, which are read in the repository too.

A link that leaves docs/ leads to a copy of what it names, under `repository/` of the site: Markdown as a page, another
file as it is, and a folder as its README.md, or as a list of its files. Diagrams are drawn by the copy of Mermaid that
`make docs` puts into .cache; where that is absent they are shown as their text. Readers fetch nothing from elsewhere.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
COPIES = "repository"
MERMAID = ROOT / ".cache" / "mermaid" / "mermaid.min.js"
_MERMAID_URI = "assets/mermaid.min.js"
_LINK = re.compile(r"(?<=\]\()([^)\s#]*)(#[^)\s]*)?(?=\))")
_CODE = re.compile(r"^(```|~~~).*?^\1[^\S\n]*$|`[^`\n]+`", flags=re.DOTALL | re.MULTILINE)
_DRAWN = re.compile(r'<pre class="mermaid">.*?</pre>', flags=re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what the pages link to outside docs/, and what those link to in turn."""
    waiting = [page.src_uri for page in files.documentation_pages()]
    for uri in waiting:
        text = files.get_file_from_path(uri).content_string  # type: ignore[union-attr]
        for target, _ in links(text):
            found = resolved(uri, target)
            if found is None or found.is_relative_to(ROOT / "docs"):
                continue
            copy = copied(found)
            if copy in files.src_uris:
                continue
            if copy.endswith(".md"):
                waiting.append(copy)
            content = {"content": listed(found)} if found.is_dir() else {"abs_src_path": str(found)}
            level = InclusionLevel.NOT_IN_NAV if copy.endswith(".md") else InclusionLevel.INCLUDED
            files.append(File.generated(config, copy, inclusion=level, **content))
    if MERMAID.is_file():
        files.append(File.generated(config, _MERMAID_URI, abs_src_path=str(MERMAID)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links as they are in the repository become links of the site."""
    uri = page.file.src_uri

    def within(match: re.Match[str]) -> str:
        found = resolved(uri, match[1])
        if found is None:
            return match[0]
        there = found.relative_to(ROOT / "docs").as_posix() if found.is_relative_to(ROOT / "docs") else copied(found)
        return posixpath.relpath(there, posixpath.dirname(uri) or ".") + (match[2] or "")

    outside, last = [], 0
    for code in _CODE.finditer(markdown):
        outside += [_LINK.sub(within, markdown[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*outside, _LINK.sub(within, markdown[last:])])


def on_page_content(html: str, page: Page, **_: object) -> str:
    """A page with diagrams loads what draws them from the site itself."""
    if not _DRAWN.search(html):
        return html
    if not MERMAID.is_file():
        return html.replace('<pre class="mermaid">', "<pre>")
    script = posixpath.relpath(_MERMAID_URI, posixpath.dirname(page.file.dest_uri) or ".")
    framed = _DRAWN.sub(r'<div class="diagram" tabindex="0" role="group" aria-label="Diagram">\g<0></div>', html)
    return f'{framed}\n<script src="{script}"></script>'


def links(markdown: str) -> list[tuple[str, str]]:
    """Each link of a page outside its code: (file, "#anchor" or nothing); what names another site is left out."""
    found = _LINK.findall(_CODE.sub("", markdown))
    return [(file, anchor) for file, anchor in found if not re.match(r"[a-z][a-z0-9+.-]*:", file)]


def home(uri: str) -> str:
    """The folder of a page in the repository, relative to its root."""
    if uri.startswith(f"{COPIES}/"):
        inside = posixpath.dirname(uri.removeprefix(f"{COPIES}/"))
        return inside
    return posixpath.join("docs", posixpath.dirname(uri))


def resolved(uri: str, target: str) -> Path | None:
    """What a link of a page names in the repository, or None where that is nothing, or the page itself."""
    if not target or re.match(r"[a-z][a-z0-9+.-]*:", target):
        return None
    found = Path(os.path.normpath(ROOT / home(uri) / target))
    if (found / "README.md").is_file():
        found /= "README.md"
    return found if found.exists() and found.is_relative_to(ROOT) else None


def copied(path: Path) -> str:
    """Where the site has a copy of a file, or the page that lists a folder."""
    inside = path.relative_to(ROOT).as_posix()
    return f"{COPIES}/{inside}/index.md" if path.is_dir() else f"{COPIES}/{inside}"


def listed(folder: Path) -> str:
    """A page that names a folder's files, and links to them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    names = [path.relative_to(folder).as_posix() for path in files]
    return "\n".join(
        [
            f"# {folder.relative_to(ROOT)}",
            "",
            "Files of the repository:",
            "",
            *(f"- [{name}]({name})" for name in names),
            "",
        ]
    )
