// landscape.js - the loss in a plane: contours and a relief, cut off at a height.
const low = Math.min(...data.heights.flat());
const high = Math.max(...data.heights.flat());
const loss = (h) => (data.log ? 10 ** h : h);
const names = data.names;

function cutAt() {
  return low + (high - low) * Number($("top").value) / 100;
}

function colours(cut) {
  const ticks = Array.from({ length: 6 }, (_, i) => low + (cut - low) * i / 5);
  return { title: { text: "loss" }, tickvals: ticks, ticktext: ticks.map((t) => told(loss(t), 3)), thickness: 12, len: 0.9 };
}

function contours() {
  const cut = cutAt();
  const z = data.heights.map((r) => r.map((h) => Math.min(h, cut)));
  const traces = [{
    type: "contour", x: data.x, y: data.y, z, colorscale: "Viridis", ncontours: 24, zmin: low, zmax: cut,
    line: { width: 0.6, color: "rgba(255,255,255,.6)" }, colorbar: colours(cut), text: data.heights.map((r) => r.map((h) => told(loss(h)))),
    hovertemplate: "%{x:.3f}, %{y:.3f}<br>loss %{text}<extra></extra>",
  }];
  if ($("points").checked) {
    traces.push({
      type: "scatter", mode: "markers", x: data.points.map((p) => data.x[p[1]]), y: data.points.map((p) => data.y[p[0]]),
      marker: { size: 4, color: "#fff", line: { color: "#222", width: 0.5 } }, hoverinfo: "skip", showlegend: false,
    });
  }
  if ($("way") && $("way").checked) {
    traces.push({
      type: "scatter", mode: "lines+markers", x: data.path.map((p) => p[0]), y: data.path.map((p) => p[1]),
      line: { color: "#fff", width: 2 }, marker: { size: 6, color: "#d1495b", line: { color: "#fff", width: 1 } }, showlegend: false,
      text: data.path.map((_, i) => `weights ${i + 1} of ${data.path.length}`), hovertemplate: "%{text}<extra></extra>",
    });
  }
  traces.push({
    type: "scatter", mode: "markers", x: [0], y: [0], marker: { symbol: "star", size: 15, color: "#fff", line: { color: "#222", width: 1 } },
    hovertemplate: "the model's weights<extra></extra>", showlegend: false,
  });
  draw("map", traces, {
    xaxis: { title: { text: names[0] }, range: [data.x[0], data.x.at(-1)] },
    yaxis: { title: { text: names[1] }, range: [data.y[0], data.y.at(-1)] },
  });
}

function relief() {
  const cut = cutAt();
  const traces = [{
    type: "surface", x: data.x, y: data.y, z: data.heights, colorscale: "Viridis", cmin: low, cmax: cut, colorbar: colours(cut), showscale: !isNarrow(),
    text: data.heights.map((r) => r.map((h) => told(loss(h)))), hovertemplate: "%{x:.3f}, %{y:.3f}<br>loss %{text}<extra></extra>",
    contours: { z: { show: true, usecolormap: true, width: 1 } },
  }];
  if ($("way") && $("way").checked) {
    traces.push({
      type: "scatter3d", mode: "lines+markers", x: data.path.map((p) => p[0]), y: data.path.map((p) => p[1]),
      z: data.path_heights, line: { color: "#d1495b", width: 5 }, marker: { size: 3, color: "#d1495b" }, hoverinfo: "skip", showlegend: false,
    });
  }
  const ticks = colours(cut);
  // A narrow picture needs the eye farther away, or the axes' names are cut off.
  const away = isNarrow() ? 1.55 : 1;
  const text = { size: isNarrow() ? 10 : 12 };
  draw("hills", traces, {
    margin: { l: 0, r: 0, t: 0, b: 0 },
    scene: {
      xaxis: { title: { text: names[0], font: text }, tickfont: text, nticks: 5 },
      yaxis: { title: { text: names[1], font: text }, tickfont: text, nticks: 5 },
      zaxis: { title: { text: "loss", font: text }, tickfont: text, tickvals: ticks.tickvals, ticktext: ticks.ticktext, range: [low, cut] },
      camera: { eye: { x: -1.25 * away, y: -1.25 * away, z: 0.95 * away }, center: { x: 0, y: 0, z: -0.15 } }, aspectratio: { x: 1, y: 1, z: 0.7 },
    },
    uirevision: "keep",
  });
}

let view = "contours";
function show() {
  $("cut").textContent = `loss ${told(loss(cutAt()), 3)}`;
  $("top").setAttribute("aria-valuetext", $("cut").textContent);
  (view === "contours" ? contours : relief)();
}
for (const id of ["top", "points", "way"]) if ($(id)) $(id).addEventListener("input", show);
tabs((id) => { view = id; $("points").disabled = id !== "contours"; show(); });
