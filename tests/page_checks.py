"""What every HTML page must be: one file that asks no server for anything, with labels and escaped texts."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

__all__ = ["Page", "check"]

# Elements and attributes that load something.
_LOADING = {"src", "srcset", "poster", "action", "formaction", "data", "ping"}


class Page(HTMLParser):
    """Reads a page: its elements, the texts of its scripts, and what is visible."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self.open: list[str] = []
        self._inside = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, before = self.scripts[-1]
            self.scripts[-1] = (attributes, before + data)
        elif self._inside != "style":
            self.text += data

    @property
    def data(self) -> dict:
        """What the page's script reads."""
        (found,) = (text for attributes, text in self.scripts if attributes.get("id") == "data")
        return json.loads(found, parse_constant=lambda constant: 1 / 0)

    def by_id(self, name: str) -> dict[str, str | None]:
        """The attributes of the element with an id."""
        (found,) = (attributes for _, attributes in self.elements if attributes.get("id") == name)
        return found


def check(text: str) -> Page:
    """Reads a page, and asserts that it is one file, with names for all controls."""
    page = Page(text)
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "base", "form", "a")
        assert not _LOADING & set(attributes), (tag, attributes)
        if tag == "link":
            assert attributes == {"rel": "icon", "href": "data:,"}
        assert not any(name.startswith("on") for name in attributes)
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "http" not in policy
    styles = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert not any("url(" in style or "@import" in style for style in styles)
    # Ours make no request; Plotly's own script is not ours, and the policy forbids it every server.
    assert not re.search(r"fetch\(|XMLHttpRequest|import\(|https?:", page.scripts[-1][1])
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = {attributes.get("for") for tag, attributes in page.elements if tag == "label"}
    for tag, attributes in page.elements:
        if tag in ("input", "select"):
            named = attributes["id"] in labelled or "aria-label" in attributes
            assert named or re.search(rf'<label[^>]*>[^<]*<input[^>]*id="{attributes["id"]}"', text), attributes
        if attributes.get("role") in ("img", "region", "tablist"):
            assert attributes.get("aria-label")
    for _, attributes in page.elements:
        if attributes.get("role") == "tab":
            assert page.by_id(attributes["aria-controls"])["role"] == "tabpanel"
            assert page.by_id(attributes["aria-controls"])["aria-labelledby"] == attributes["id"]
    # Every element that the script names is there.
    for name in re.findall(r'(?<!if \()\$\("([\w-]+)"\)\.', page.scripts[-1][1]):
        assert (
            name in ids or f'if ($("{name}")' in page.scripts[-1][1] or f'$("{name}") ' in page.scripts[-1][1]
        ), name
    return page
