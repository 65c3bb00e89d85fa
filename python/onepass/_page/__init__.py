"""Pages of pictures: one HTML file each, which holds its script and its data and asks no server for anything."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["check_installed", "plain", "render"]

_FOLDER = Path(__file__).parent / "templates"


def check_installed(function: str) -> None:
    """Checks that the packages which pages need are there.

    Args:
        function: Name of the function, for the message.

    Raises:
        ModuleNotFoundError: plotly or jinja2 is missing; the message has the command that installs them.
    """
    try:
        import jinja2  # noqa: F401
        import plotly.offline  # type: ignore[import-not-found,import-untyped,unused-ignore]  # noqa: F401
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f'{function}: an HTML page needs plotly and jinja2 (pip install "onepass[visualize]"), got: {error}'
        ) from error


def plain(value: Any) -> Any:
    """Returns a value as strict JSON can hold it: numbers of six digits, None for those that are not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return value


def render(name: str, function: str, title: str, data: Mapping[str, Any], **context: Any) -> str:
    """Makes a page.

    Args:
        name: The page's template and script: templates/name.html.j2 and templates/name.js.
        function: Name of the function, for the message where a package is missing.
        title: The page's title.
        data: What the script reads.
        context: What the template reads; texts are escaped.

    Returns:
        The HTML text.

    Raises:
        ModuleNotFoundError: plotly or jinja2 is not installed.
    """
    check_installed(function)
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # type: ignore[import-not-found,import-untyped,unused-ignore]

    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    # "<" could end the script in which the data stand.
    text = json.dumps(plain(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    scripts = "\n".join((_FOLDER / file).read_text(encoding="utf-8") for file in ("common.js", f"{name}.js"))
    style = (_FOLDER / "page.css").read_text(encoding="utf-8")
    return environment.get_template(f"{name}.html.j2").render(
        title=title,
        data=Markup(text),
        plotly=Markup(get_plotlyjs()),
        script=Markup(scripts),
        style=Markup(style),
        **context,
    )
