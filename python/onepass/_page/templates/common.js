// common.js - what all pages share: the data, numbers as text, charts, tabs.
"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const isNarrow = () => window.matchMedia("(max-width: 700px)").matches;

function told(value, digits = 4) {
  if (value === null || value === undefined) return "not finite";
  if (value === 0 || Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  const size = Math.abs(value);
  return size >= 1e5 || size < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(digits)));
}

// Draws a chart, or draws it again in place. On a phone a finger that moves over it scrolls the page.
function draw(id, traces, layout = {}) {
  const axis = { zeroline: false, gridcolor: "#e4e9ed", linecolor: "#7b8794", automargin: true };
  const font = { family: "system-ui, sans-serif", size: isNarrow() ? 12 : 13, color: "#1f2933" };
  const whole = {
    margin: { l: 10, r: 10, t: 26, b: 10 }, font, paper_bgcolor: "#fff", plot_bgcolor: "#fff", hovermode: "closest",
    dragmode: isNarrow() ? false : "zoom", legend: { orientation: "h", y: -0.22, x: 0 }, ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  };
  return Plotly.react(id, traces, whole, { responsive: true, displayModeBar: false, doubleClick: "reset" });
}

// Tabs as the ARIA authoring practices describe them; `shown(id)` is called whenever a panel appears.
function tabs(shown) {
  const all = [...document.querySelectorAll("[role=tab]")];
  const show = (tab, focus) => {
    for (const one of all) {
      const chosen = one === tab;
      one.setAttribute("aria-selected", String(chosen));
      one.tabIndex = chosen ? 0 : -1;
      $(one.getAttribute("aria-controls")).hidden = !chosen;
    }
    if (focus) tab.focus();
    shown(tab.getAttribute("aria-controls"));
  };
  all.forEach((tab, i) => {
    tab.addEventListener("click", () => show(tab, false));
    tab.addEventListener("keydown", (event) => {
      const moves = { ArrowRight: i + 1, ArrowLeft: i - 1 + all.length, Home: 0, End: all.length - 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      show(all[moves[event.key] % all.length], true);
    });
  });
  show(all[0], false);
}

// A logarithmic axis whose labels do not crowd: powers of ten, or fewer where there are many. Over less than a factor
// of five a linear axis shows more.
function logAxis(values) {
  const logs = values.filter((v) => v !== null && v > 0).map(Math.log10);
  const decades = logs.length > 1 ? logs.reduce((a, b) => Math.max(a, b)) - logs.reduce((a, b) => Math.min(a, b)) : 0;
  if (decades < 0.7) return {};
  return { type: "log", dtick: decades > 1.2 ? Math.max(1, Math.ceil(decades / 7)) : "D2", exponentformat: "power" };
}
