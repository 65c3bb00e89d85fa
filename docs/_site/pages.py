"""Fills pages from the repository: files that stand elsewhere, and tables drawn from benchmarks/results.

A line ``<!-- include: ../CONTRIBUTING.md -->`` becomes that file; ``<!-- results: optim -->`` becomes the table of
that name in `results.TABLES`; ``<!-- picture: lab-gap -->`` becomes a picture that is drawn from that JSON file.
Links of an included file are made relative to the page, and links to an included file lead to its page.
"""

import posixpath
import re
from pathlib import Path

from sphinx.application import Sphinx

from _site import lab, results

DOCS = Path(__file__).parents[1]
INCLUDE = re.compile(r"^<!-- include: (\S+) -->$", re.MULTILINE)
RESULTS = re.compile(r"^<!-- results: (\S+) -->$", re.MULTILINE)
PICTURE = re.compile(r"^<!-- picture: lab-(\S+) -->$", re.MULTILINE)
# Where pictures are drawn, from docs/; git ignores it.
DRAWN = "_drawn"
LINK = re.compile(r"(\]\()([^)\s]+)(\))")


def included() -> dict[str, str]:
    """Which files become pages: path from docs/, and the page's name."""
    found = {}
    for page in sorted(DOCS.rglob("*.md")):
        for target in INCLUDE.findall(page.read_text()):
            where = posixpath.normpath(posixpath.join(page.parent.relative_to(DOCS).as_posix(), target))
            found[where] = page.relative_to(DOCS).as_posix()
    return found


def relink(text: str, written: str, page: str) -> str:
    """The text with its links as they must be in a page.

    Args:
        text: Markdown.
        written: The folder that the links are relative to, from docs/.
        page: The page's path from docs/.
    """
    pages = included()

    def link(match: re.Match[str]) -> str:
        target, anchor, fragment = match[2].partition("#")
        if not target or "://" in target or target.startswith("mailto:"):
            return match[0]
        where = posixpath.normpath(posixpath.join(written, target))
        where = posixpath.relpath(pages.get(where, where), posixpath.dirname(page) or ".")
        return f"{match[1]}{where}{anchor}{fragment}{match[3]}"

    return LINK.sub(link, text)


def fill(text: str, page: str) -> str:
    """A page's Markdown with what its comments ask for."""
    text = relink(text, posixpath.dirname(page), page)

    def file(match: re.Match[str]) -> str:
        where = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[1]))
        return relink((DOCS / where).read_text(), posixpath.dirname(where), page)

    def picture(match: re.Match[str]) -> str:
        where = f"{DRAWN}/lab-{match[1]}.png"
        (DOCS / DRAWN).mkdir(exist_ok=True)
        lab.draw(match[1], DOCS / where)
        return f"![What {match[1]} measured]({posixpath.relpath(where, posixpath.dirname(page) or '.')})"

    text = INCLUDE.sub(file, text)
    text = PICTURE.sub(picture, text)
    return RESULTS.sub(lambda match: results.table(match[1]), text)


def _read(app: Sphinx, name: str, source: list[str]) -> None:
    path = Path(app.env.doc2path(name))
    if path.suffix == ".md":
        source[0] = fill(source[0], path.relative_to(DOCS).as_posix())
        for target in INCLUDE.findall(path.read_text()):
            app.env.note_dependency(str((path.parent / target).resolve()))


def setup(app: Sphinx) -> dict[str, bool]:
    """Fills each page when it is read."""
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
