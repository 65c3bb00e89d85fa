// report.js - the curves of a run, smoothed as the sliders say.
const palette = ["#0b6e83", "#d1495b", "#8a5a00", "#6a4c93", "#2e7d32", "#30638e", "#c2185b", "#5d4037", "#455a64", "#00838f"];
let smoothing = 0.8;

// m_n / (1 - b^n), m_n = b m_(n-1) + (1 - b) y_n: the mean of the past, whose weights add up to 1. Gaps stay gaps.
function smoothed(values, b) {
  let mean = 0, weight = 1;
  return values.map((y) => {
    if (y === null) return null;
    mean = b * mean + (1 - b) * y;
    weight *= b;
    return mean / (1 - weight);
  });
}

function traces(given, k, smooth, log = false) {
  // A logarithmic axis has no place for 0.
  const curve = log ? { ...given, y: given.y.map((y) => (y > 0 ? y : null)) } : given;
  const colour = palette[k % palette.length];
  const hovertemplate = `step %{x}<br>%{y:.5g}<extra>${curve.name.replace(/[<&]/g, " ")}</extra>`;
  const name = curve.name.replace(/</g, "‹");
  const line = { type: "scatter", name, x: curve.x, hovertemplate, legendgroup: String(k), line: { color: colour, width: 1.8 } };
  if (curve.dots) return [{ ...line, y: curve.y, mode: "lines+markers", marker: { size: 7, color: colour } }];
  if (!smooth) return [{ ...line, y: curve.y, mode: "lines" }];
  return [
    { ...line, y: curve.y, mode: "lines", opacity: 0.28, line: { color: colour, width: 1 }, showlegend: false, hoverinfo: "skip", hovertemplate: null },
    { ...line, y: smoothed(curve.y, smoothing), mode: "lines" },
  ];
}

function axisOf(chart) {
  const log = chart.id === "chart-loss" ? $("log-loss").checked : chart.log;
  const values = chart.curves.flatMap((c) => c.y).filter((y) => y !== null);
  if (values.length && values.every((y) => y === 0)) return { range: [-0.05, 1] };
  return log ? logAxis(values) : {};
}

function drawChart(chart, smooth, chosen = "all") {
  const curves = chart.curves.map((c, k) => [c, k]).filter(([c]) => chosen === "all" || c.group === null || String(c.group) === chosen);
  const axis = axisOf(chart);
  const all = curves.flatMap(([c, k]) => traces(c, k, smooth && smoothing > 0, axis.type === "log"));
  if (chart.id === "chart-loss" && data.not_finite.length) {
    all.push({
      type: "scatter", mode: "markers", name: "not finite", x: data.not_finite, y: data.not_finite.map(() => 0.02), yaxis: "y2",
      marker: { symbol: "x", color: "#9b1c31", size: 9 }, hovertemplate: "step %{x}: the loss is not finite<extra></extra>",
    });
  }
  draw(chart.id, all, {
    title: { text: chart.title.replace(/</g, "‹"), font: { size: 14 }, x: 0.02 }, showlegend: curves.length > 1 || all.some((t) => t.yaxis),
    xaxis: { title: { text: "step", standoff: 4 } }, yaxis: axis,
    yaxis2: { overlaying: "y", range: [0, 1], visible: false, fixedrange: true },
  });
}

function layers() {
  if (!$("quantity")) return;
  const quantity = $("quantity").value;
  const curves = data.layers[quantity];
  const axis = axisOf({ curves, log: quantity.includes("norm") || quantity.includes("ratio") });
  draw("layers", curves.flatMap((c, k) => traces(c, k, false, axis.type === "log")), {
    title: { text: quantity.replaceAll("_", " ").replace(/</g, "‹"), font: { size: 14 }, x: 0.02 }, showlegend: curves.length < 13 || !isNarrow(),
    xaxis: { title: { text: "step", standoff: 4 } }, yaxis: axis,
  });
}

let panel = "panel-curves";
function show() {
  for (const slider of document.querySelectorAll(".smooth")) {
    slider.value = smoothing;
    slider.nextElementSibling.textContent = smoothing > 0 ? smoothing.toFixed(2) : "off";
  }
  const tab = panel.replace("panel-", "");
  const chosen = $("group") ? $("group").value : "all";
  for (const chart of data.tabs[tab] ?? []) drawChart(chart, tab !== "schedule", tab === "norms" ? chosen : "all");
  if (tab === "norms") layers();
}

for (const slider of document.querySelectorAll(".smooth")) {
  slider.addEventListener("input", () => { smoothing = Number(slider.value); show(); });
}
for (const id of ["log-loss", "group"]) if ($(id)) $(id).addEventListener("change", show);
if ($("quantity")) $("quantity").addEventListener("change", layers);
tabs((id) => { panel = id; show(); });
