"""Tries every tab, slider, button, box and list of our pages in Chromium, as wide as a desk and as a phone.

    python tests/browser/look.py FOLDER [AXE.JS] [PICTURES]

It fails if an error is logged, another file is asked for, a page is wider than the screen, a control
changes nothing, or axe finds a serious fault of accessibility.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import ElementHandle, Page, sync_playwright

WIDTHS = (1280, 390)
SEVERE = ("serious", "critical")
OPTIONS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
WIDE = """width => [...document.querySelectorAll("main *")]
  .filter(e => e.checkVisibility() && e.getBoundingClientRect().right > width + 1
    && !e.closest(".scroll, pre, .chart"))
  .map(e => `${e.tagName}.${e.className} is too wide: ${e.textContent.trim().slice(0, 60)}`)"""
# What a control changes: the texts of the page, and what Plotly has drawn. Pixels would include the focus ring.
SEEN = """() => [...document.querySelectorAll(".chart")].filter(e => e.checkVisibility() && e.data)
  .map(e => JSON.stringify([e.data.map(t => [t.x, t.y, t.z, t.visible, t.opacity, t.cmax, t.zmax]),
    e.layout.yaxis.type])).join() + document.querySelector("main").innerText"""
SHORT = 10.0


def watch(page: Page) -> list[str]:
    """Collects what the page logs as an error, and what it asks for."""
    found: list[str] = []
    page.on("console", lambda message: found.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: found.append(str(error)))
    page.on(
        "request",
        lambda made: None if made.url.startswith(("file:", "data:", "blob:")) else found.append(made.url),
    )
    return found


def settled(page: Page) -> str:
    """Waits until the page has drawn, and returns what it shows."""
    page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(page.evaluate(SEEN))


def move(page: Page, control: ElementHandle) -> None:
    """Uses a control as a reader does: by key for sliders, by click for boxes and buttons."""
    kind = control.get_attribute("type") or control.evaluate("e => e.tagName.toLowerCase()")
    if kind == "range":
        control.focus()
        # Another tab's slider may have moved this one, too: it goes to the end that is farther away.
        low = control.evaluate("e => e.value - e.min > e.max - e.value")
        page.keyboard.press("Home" if low else "End")
    elif kind == "select":
        control.select_option(index=control.evaluate("e => (e.selectedIndex + 1) % e.options.length"))
    else:
        control.click()


def controls(page: Page, name: str) -> list[str]:
    """Tries all visible controls that are no tabs; returns what is wrong."""
    found = []
    for control in page.query_selector_all("main input, main select, main button:not([role=tab])"):
        if not control.is_visible() or control.is_disabled():
            continue
        which = control.get_attribute("id")
        before = settled(page)
        move(page, control)
        # The speed of playing shows only while it plays, a list of one entry has no other.
        still = which == "speed" or control.evaluate("e => e.tagName === 'SELECT' && e.options.length < 2")
        if which == "play":
            page.wait_for_function("before => document.getElementById('at').textContent !== before", arg="")
            page.wait_for_timeout(400)
        after = settled(page)
        if after == before and not still:
            found.append(f"{name}: {which} changes nothing")
    return found


def plays(page: Page) -> list[str]:
    """Plays from the beginning, pauses, and looks whether the step stays; at the end it stops by itself."""
    at = "() => Number(document.getElementById('step').value)"
    text = "document.getElementById('play').textContent"
    found = []
    slider = page.query_selector("#step")
    slider.focus()
    page.keyboard.press("Home")
    page.click("#play")
    page.wait_for_function(f"({at})() > 3", timeout=SHORT * 1000)
    page.click("#play")
    paused = page.evaluate(at)
    page.wait_for_timeout(300)
    if page.evaluate(at) != paused or page.evaluate(text) != "Play":
        found.append("pause does not pause")
    page.select_option("#speed", "120")
    page.click("#play")
    page.wait_for_function(f"{text} === 'Play'", timeout=SHORT * 1000)
    if page.evaluate(at) != int(slider.get_attribute("max") or 0):
        found.append("play does not go to the end")
    return found


def hovers(page: Page) -> list[str]:
    """Points at the end of a path: loss, rate and step size must appear."""
    box = page.evaluate(
        """() => { const e = document.getElementById("surface"), t = e.data[2], f = e._fullLayout;
        const r = e.getBoundingClientRect(), i = t.x.length - 1;
        return [r.left + f._size.l + f.xaxis.l2p(t.x[i]), r.top + f._size.t + f.yaxis.l2p(t.y[i])]; }"""
    )
    page.mouse.move(box[0], box[1])
    page.wait_for_timeout(300)
    shown = page.evaluate(
        "() => [...document.querySelectorAll('.hoverlayer text')].map(e => e.textContent).join(' ')"
    )
    return [f"hover lacks {word}: {shown}" for word in ("loss", "rate", "step size") if word not in shown]


def axe(page: Page, script: Path | None) -> list[str]:
    """Serious faults of accessibility of what is visible."""
    if script is None:
        return []
    page.evaluate(script.read_text())
    result = page.evaluate("() => axe.run()")
    severe = [one for one in result["violations"] if one["impact"] in SEVERE]
    return [f"axe: {one['id']}: {one['help']}: {one['nodes'][0]['html'][:120]}" for one in severe]


def look(page: Page, path: Path, width: int, script: Path | None, pictures: Path | None) -> list[str]:
    """What is wrong with one page at one width."""
    found = watch(page)
    page.goto(path.as_uri())
    tabs = page.query_selector_all("[role=tab]")
    for i, tab in enumerate(tabs or [None]):
        name = "page"
        if tab is not None:
            tab.click()
            name = tab.inner_text()
            if not page.query_selector(f"#{tab.get_attribute('aria-controls')}").is_visible():
                found.append(f"tab {name} shows nothing")
        settled(page)
        if page.evaluate("document.documentElement.scrollWidth") > width:
            found.append(f"{name}: the page scrolls sideways")
        found += [f"{name}: {fault}" for fault in [*page.evaluate(WIDE, width), *axe(page, script)]]
        if pictures:
            page.screenshot(path=pictures / f"{path.stem}-{i}-{width}.png", full_page=True)
        found += controls(page, name)
    if tabs:
        tabs[0].focus()
        for _ in tabs[1:]:
            page.keyboard.press("ArrowRight")
        if tabs[-1].get_attribute("aria-selected") != "true":
            found.append("tabs do not follow the arrow keys")
    if page.query_selector("#play"):
        page.reload()
        found += plays(page) + (hovers(page) if width > 700 else [])
    return found


def main() -> int:
    """Prints what is wrong with which page; 1 if anything is."""
    folder = Path(sys.argv[1])
    script = Path(sys.argv[2]) if len(sys.argv) > 2 else None
    pictures = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    if pictures:
        pictures.mkdir(parents=True, exist_ok=True)
    count = 0
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=shutil.which("chromium"), args=OPTIONS)
        for path in sorted(folder.glob("*.html")):
            for width in WIDTHS:
                page = browser.new_page(viewport={"width": width, "height": 900}, bypass_csp=True)
                for fault in look(page, path.resolve(), width, script, pictures):
                    count += 1
                    print(f"{path.name}, {width} pixels: {fault}")
                page.close()
                # Once more as a reader has it: bypass_csp, which axe needs, takes the page's policy away.
                page = browser.new_page(viewport={"width": width, "height": 900})
                faults = watch(page)
                page.goto(path.resolve().as_uri())
                for tab in page.query_selector_all("[role=tab]"):
                    tab.click()
                    settled(page)
                for fault in faults:
                    count += 1
                    print(f"{path.name}, {width} pixels, with its policy: {fault}")
                page.close()
    print(f"{count} faults")
    return int(count > 0)


if __name__ == "__main__":
    sys.exit(main())
