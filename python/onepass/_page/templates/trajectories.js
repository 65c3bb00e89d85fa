// trajectories.js - plays the steps of optimizers on a surface.
const paths = data.paths;
const last = Number($("step").max);
const least = data.least ?? 0;
const positive = paths.every((p) => p.losses.every((v) => v === null || v - least >= 0));
const height = (v) => (v === null ? null : positive ? Math.max(v - least, 1e-16) : v);
const hover = "<b>%{text}</b><br>step %{customdata[0]}<br>loss %{customdata[1]}<br>rate %{customdata[2]}<br>" +
  "step size %{customdata[3]}<extra></extra>";

// The numbers of a point: the rate and size of the step that leads away from it; at the end, of the last step.
const row = (p, i) => {
  const j = Math.min(i, p.rates.length - 1);
  return [i, told(p.losses[i]), told(p.rates[j]), told(p.step_sizes[j])];
};
const rows = paths.map((p) => p.x.map((_, i) => row(p, i)));
const reached = (p, step) => Math.min(step, p.x.length - 1);

function surfaceTraces(step) {
  const ground = {
    type: "contour", x: data.grid.x, y: data.grid.y, z: data.grid.heights, showscale: false, hoverinfo: "skip",
    ncontours: 24, colorscale: [[0, "#24618f"], [0.35, "#6ba6cd"], [0.7, "#bcd7e9"], [1, "#f4f9fd"]],
    line: { width: 0.4, color: "#ffffff" }, showlegend: false,
  };
  const minima = {
    type: "scatter", mode: "markers", x: data.minima.map((m) => m[0]), y: data.minima.map((m) => m[1]), name: "minimum",
    marker: { symbol: "star", size: 14, color: "#fff", line: { color: "#222", width: 1 } }, hoverinfo: "skip",
    showlegend: false,
  };
  const lines = paths.map((p, k) => {
    const end = reached(p, step) + 1;
    const size = Array.from({ length: end }, (_, i) => (i === end - 1 ? 12 : 4));
    return {
      type: "scatter", mode: "lines+markers", name: p.label, x: p.x.slice(0, end), y: p.y.slice(0, end),
      line: { color: p.colour, width: 2 },
      marker: { color: p.colour, size, line: { color: "#fff", width: size.map((s) => (s > 4 ? 1.5 : 0)) } },
      text: Array(end).fill(p.label), customdata: rows[k].slice(0, end), hovertemplate: hover,
      visible: $(`show-${k}`).checked, showlegend: false,
    };
  });
  return [ground, minima, ...lines];
}

function lossTraces(step) {
  return paths.flatMap((p, k) => {
    const end = reached(p, step);
    const common = { type: "scatter", text: p.x.map(() => p.label), hovertemplate: hover, visible: $(`show-${k}`).checked };
    const line = {
      ...common, mode: "lines", name: p.label, x: p.losses.map((_, i) => i), y: p.losses.map(height),
      line: { color: p.colour, width: 1.8 }, customdata: rows[k], showlegend: false,
    };
    const here = {
      ...common, mode: "markers", name: p.label, x: [end], y: [height(p.losses[end])], showlegend: false,
      marker: { color: p.colour, size: 11, line: { color: "#fff", width: 1.5 } }, customdata: [rows[k][end]],
    };
    return [line, here];
  });
}

function show(step) {
  draw("surface", surfaceTraces(step), {
    xaxis: { range: data.window[0], title: { text: "x" } }, yaxis: { range: data.window[1], title: { text: "y" } },
    title: { text: "surface and paths", font: { size: 14 }, x: 0.02 }, uirevision: "keep",
  });
  draw("losses", lossTraces(step), {
    xaxis: { title: { text: "step" } },
    yaxis: positive ? logAxis(paths.flatMap((p) => p.losses.map(height))) : {},
    title: { text: positive && data.least !== null ? "loss above the minimum" : "loss", font: { size: 14 }, x: 0.02 },
    uirevision: "keep",
  });
  paths.forEach((p, k) => {
    const i = reached(p, step);
    const [, loss, rate, size] = rows[k][i];
    $(`loss-${k}`).textContent = loss;
    $(`rate-${k}`).textContent = rate;
    $(`size-${k}`).textContent = size;
    $(`norm-${k}`).textContent = told(p.grad_norms[i]);
  });
  $("at").textContent = `${step} of ${last}`;
  $("step").setAttribute("aria-valuetext", `step ${step} of ${last}`);
}

let timer = null;
function pause() {
  if (timer !== null) cancelAnimationFrame(timer);
  timer = null;
  $("play").textContent = "Play";
}
function play() {
  const from = Number($("step").value) >= last ? 0 : Number($("step").value);
  const begun = performance.now();
  $("play").textContent = "Pause";
  const tick = (now) => {
    // The time of a frame may lie before the click.
    const seconds = Math.max(0, now - begun) / 1000;
    const step = Math.min(last, from + Math.floor(seconds * Number($("speed").value)));
    if (step !== Number($("step").value) || step === from) {
      $("step").value = step;
      show(step);
    }
    if (step >= last) pause();
    else timer = requestAnimationFrame(tick);
  };
  timer = requestAnimationFrame(tick);
}

$("play").addEventListener("click", () => (timer === null ? play() : pause()));
$("speed").addEventListener("change", () => { if (timer !== null) { pause(); play(); } });
$("step").addEventListener("input", () => { pause(); show(Number($("step").value)); });
paths.forEach((_, k) => $(`show-${k}`).addEventListener("change", () => show(Number($("step").value))));
show(last);
if ($("rates")) {
  const tried = paths.filter((p) => p.tried.length);
  draw("rates", tried.map((p) => ({
    type: "scatter", mode: "lines+markers", name: p.label, x: p.tried.map((t) => t[0]), y: p.tried.map((t) => height(t[1])),
    line: { color: p.colour }, marker: { size: 5 }, hovertemplate: `<b>${"%{fullData.name}"}</b><br>rate %{x:.3g}<br>score %{y:.3g}<extra></extra>`,
  })), {
    xaxis: { title: { text: "rate" }, ...logAxis([1e-4, 10]) },
    yaxis: positive ? logAxis(tried.flatMap((p) => p.tried.map((t) => height(t[1])))) : {},
    title: { text: "score of each rate", font: { size: 14 }, x: 0.02 },
  });
}
