"use strict";
(async () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const element = (id) => document.getElementById(id);

  // ---------------------------------------------------------------- plots

  async function embed({ json, roots }) {
    await Bokeh.embed.embed_items({ page: json }, [{ docid: "page", roots, root_ids: Object.keys(roots) }]);
    const drawn = Bokeh.documents[Bokeh.documents.length - 1];
    inPageColors(drawn);
    return drawn;
  }

  // Bokeh paints text and lines itself: give it the colours that the style sheet has for light or dark.
  function inPageColors(drawn) {
    const style = getComputedStyle(document.documentElement);
    const [ink, axis, grid] = ["--ink", "--axis", "--grid"].map((name) => style.getPropertyValue(name).trim());
    for (const plot of drawn.roots()) {
      for (const part of [...(plot.left ?? []), ...(plot.below ?? []), ...(plot.above ?? []), ...(plot.center ?? [])]) {
        const kind = part.type;
        if (kind.endsWith("Axis")) {
          part.setv({ axis_label_text_color: ink, major_label_text_color: axis, axis_line_color: axis, major_tick_line_color: axis });
        } else if (kind === "Grid") {
          part.setv({ grid_line_color: grid });
        } else if (kind === "Legend") {
          part.setv({ label_text_color: ink });
        }
      }
      for (const renderer of plot.renderers ?? []) {
        if (renderer.glyph?.type === "Text") renderer.glyph.text_color = ink;
      }
    }
  }

  const views = await embed(data.views);
  const [source, channels, colors] = ["spots", "channels", "colors"].map((name) => views.get_model_by_name(name));
  const plots = ["tissue", "latent"].map((name) => views.get_model_by_name(name));
  const names = channels.data.name;
  const n = names.length;
  let shown = data.channels[0];

  // ---------------------------------------------------------------- colours

  const valuesOf = (channel) => channels.data[channel.key];
  const paletteOf = (channel) => (channel.categories.length ? channel.palette : data.ramps[channel.palette]);
  const written = (value) => (Number.isFinite(value) ? Number(value.toPrecision(3)).toString().replace("-", "−") : "–");
  const told = (channel, i) => {
    const value = valuesOf(channel)[i];
    return channel.categories.length ? channel.categories[value] : written(value);
  };

  function color(number) {
    shown = data.channels[number];
    colors.setv({ palette: paletteOf(shown), low: shown.low, high: shown.high });
    source.data = { ...Object.fromEntries(Object.entries(source.data)), value: Float32Array.from(valuesOf(shown)) };
    element("about").textContent = shown.about;
    element("legend").replaceChildren(...(shown.categories.length ? chips() : [ramp()]));
    tellChosen();
  }

  function chips() {
    const palette = paletteOf(shown);
    return shown.categories.map((name, code) => {
      const chip = document.createElement("button");
      const swatch = document.createElement("span");
      chip.type = "button";
      chip.setAttribute("aria-pressed", "false");
      swatch.className = "swatch";
      swatch.style.background = palette[code];
      chip.append(swatch, name);
      chip.addEventListener("click", () => chooseCategory(chip, code));
      return chip;
    });
  }

  function ramp() {
    const box = document.createElement("div");
    const [low, bar, high] = ["span", "span", "span"].map((kind) => document.createElement(kind));
    const palette = paletteOf(shown);
    const stops = Array.from({ length: 9 }, (_, i) => palette[Math.round((i * (palette.length - 1)) / 8)]);
    box.className = "ramp";
    bar.className = "bar";
    bar.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
    low.textContent = written(shown.low);
    high.textContent = written(shown.high);
    box.append(low, bar, high);
    return box;
  }

  // ---------------------------------------------------------------- choosing and pointing

  const choose = (indices) => { source.selected.indices = indices; };

  function chooseCategory(chip, code) {
    const off = chip.getAttribute("aria-pressed") === "true";
    const values = valuesOf(shown);
    const members = [];
    for (let i = 0; i < n && !off; i++) if (values[i] === code) members.push(i);
    choose(members);
    chip.setAttribute("aria-pressed", String(!off));
  }

  function tellChosen() {
    const indices = source.selected.indices;
    for (const chip of document.querySelectorAll("#legend [aria-pressed=true]")) chip.setAttribute("aria-pressed", "false");
    element("clear").disabled = indices.length === 0;
    element("chosen").textContent = indices.length ? `${indices.length.toLocaleString("en")} of ${n.toLocaleString("en")} spots selected: ${summary(indices)}` : "";
  }

  function summary(indices) {
    const values = valuesOf(shown);
    if (shown.categories.length) {
      const counts = new Map();
      for (const i of indices) counts.set(values[i], (counts.get(values[i]) ?? 0) + 1);
      const most = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4);
      const parts = most.map(([code, count]) => `${shown.categories[code]} ${Math.round((100 * count) / indices.length)}%`);
      return `${shown.label} ${parts.join(", ")}${counts.size > 4 ? ", …" : ""}`;
    }
    return `mean ${shown.label} ${written(mean(indices, values))}, of all spots ${written(mean(values.keys(), values))}`;
  }

  function mean(indices, values) {
    let total = 0;
    let count = 0;
    for (const i of indices) if (Number.isFinite(values[i])) { total += values[i]; count += 1; }
    return total / count;
  }

  let pointer = { x: 0, y: 0 };
  function tellPointed() {
    const [i] = source.inspected.indices;
    const note = element("pointed");
    const first = data.channels[0];
    const lines = i === undefined ? [] : [names[i], `${shown.label}: ${told(shown, i)}`];
    if (i !== undefined && shown !== first) lines.push(`${first.label}: ${told(first, i)}`);
    note.textContent = lines.join("\n");
    if (i === undefined) return;
    const { width, height } = note.getBoundingClientRect();
    note.style.left = `${Math.max(4, Math.min(pointer.x + 16, innerWidth - width - 8))}px`;
    note.style.top = `${pointer.y + 20 + height > innerHeight ? pointer.y - height - 12 : pointer.y + 20}px`;
  }

  source.selected.change.connect(tellChosen);
  source.inspect.connect(tellPointed);
  for (const view of document.querySelectorAll(".view")) {
    view.addEventListener("pointermove", (event) => { pointer = { x: event.clientX, y: event.clientY }; }, { capture: true });
    view.addEventListener("pointerleave", () => { element("pointed").textContent = ""; });
  }
  addEventListener("scroll", () => { element("pointed").textContent = ""; }, { passive: true });

  // ---------------------------------------------------------------- controls

  function drag(mode) {
    for (const plot of plots) {
      for (const kind of ["lasso", "box", "move", "zoom"]) {
        views.get_model_by_name(`${plot.name}-${kind}`).active = kind === mode || (kind === "zoom" && mode === "move");
      }
    }
  }

  const ranges = plots.flatMap((plot) => [plot.x_range, plot.y_range]);
  const initial = ranges.map(({ start, end }) => ({ start, end }));
  const reset = () => ranges.forEach((range, i) => range.setv(initial[i]));
  function zoom(factor) {
    for (const range of ranges) {
      const [middle, half] = [(range.start + range.end) / 2, (range.end - range.start) / 2];
      range.setv({ start: middle - half * factor, end: middle + half * factor });
    }
  }

  element("color").addEventListener("change", (event) => color(Number(event.target.value)));
  for (const choice of document.getElementsByName("drag")) {
    choice.addEventListener("change", () => drag(choice.value));
    if (matchMedia("(pointer: coarse)").matches && choice.value === "off") choice.checked = true;
    if (choice.checked) drag(choice.value);
  }
  element("zoom-in").addEventListener("click", () => zoom(1 / 1.5));
  element("zoom-out").addEventListener("click", () => zoom(1.5));
  element("reset").addEventListener("click", reset);
  element("clear").addEventListener("click", () => choose([]));
  addEventListener("keydown", (event) => { if (event.key === "Escape") choose([]); });
  element("copy")?.addEventListener("click", async () => {
    await navigator.clipboard.writeText(element("command").textContent);
    element("copy").textContent = "Copied";
  });
  element("color").value = "0"; // browsers remember choices over a reload
  color(0);
  document.documentElement.dataset.state = "views";

  // The charts come after the views have been painted.
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const charts = await embed(data.charts);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [views, charts].forEach(inPageColors));
  document.documentElement.dataset.state = "ready";
})();
