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
  const plots = ["tissue", "latent", ...data.parts].map((name) => views.get_model_by_name(name));
  const names = channels.data.name;
  const n = names.length;
  let shown = data.channels[0];

  // ---------------------------------------------------------------- colours

  const valuesOf = (channel) => channel.values ?? channels.data[channel.key];
  const paletteOf = (channel) => (channel.categories.length ? channel.palette : data.ramps[channel.palette]);
  const written = (value) => (Number.isFinite(value) ? Number(value.toPrecision(3)).toString().replace("-", "−") : "–");
  const told = (channel, i) => {
    const value = valuesOf(channel)[i];
    return channel.categories.length ? channel.categories[value] : written(value);
  };

  function color(channel) {
    shown = channel;
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
    const visible = shapes[0].view.filter.booleans;
    for (let i = 0; i < n && !off; i++) if (values[i] === code && (!visible || visible[i])) members.push(i);
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

  // ---------------------------------------------------------------- genes

  let store; // values of all genes, unpacked when the first one is searched
  async function unpacked() {
    const packed = Uint8Array.from(atob(element("store").textContent.trim()), (letter) => letter.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  async function showGene(number) {
    const { names: genes, highest, levels, rows } = data.genes;
    element("gene").value = genes[number];
    try {
      store ??= await unpacked();
    } catch {
      element("found").textContent = "This browser cannot unpack the genes: a newer one can.";
      return;
    }
    const here = rows ? rows.length : n;
    const values = new Float32Array(n).fill(NaN);
    for (let i = 0; i < here; i++) values[rows ? rows[i] : i] = (store[number * here + i] * highest[number]) / levels;
    color({ key: "gene", label: genes[number], categories: [], palette: "sequential", low: 0, high: highest[number], about: data.genes.about, values });
    element("color").selectedIndex = -1;
    element("found").textContent = `Gene ${genes[number]}${rows ? `, on ${here.toLocaleString("en")} of the spots` : ""}`;
  }

  function searchGene() {
    const asked = element("gene").value.trim().toLowerCase();
    if (!asked) return;
    const lower = data.genes.names.map((name) => name.toLowerCase());
    let number = lower.indexOf(asked);
    if (number < 0) number = lower.findIndex((name) => name.split(/[ ()]+/).includes(asked));
    if (number >= 0) showGene(number);
    else {
      const like = data.genes.names.filter((name) => name.toLowerCase().includes(asked)).slice(0, 5);
      element("found").textContent = `No gene of the model is called ${element("gene").value}${like.length ? `; like it: ${like.join(", ")}` : ""}.`;
    }
  }

  if (data.genes) {
    element("genes").replaceChildren(...data.genes.names.map((name) => Object.assign(document.createElement("option"), { value: name })));
    element("gene").addEventListener("change", searchGene);
    for (const button of document.querySelectorAll("button.gene")) {
      button.addEventListener("click", async () => {
        await showGene(Number(button.dataset.gene));
        element("views").focus();
      });
    }
  }

  // ---------------------------------------------------------------- downloads

  function save(name, text, kind) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(text instanceof Blob ? text : new Blob([text], { type: kind }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  }

  const quoted = (value) => (/[",\n\r]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value);
  const lines = (rows) => `${rows.map((row) => row.map((value) => quoted(String(value))).join(",")).join("\r\n")}\r\n`;
  const cell = (one) => (one.dataset.value === undefined ? one.textContent.trim() : one.dataset.value.replace(/^None$/, ""));

  function tableOf(name) {
    const rows = [...element(`table-${name}`).rows];
    return lines(rows.map((row) => [...row.cells].filter((one) => one.dataset.skip === undefined).map(cell)));
  }

  function spotsAsTable() {
    const { x, y, u, v } = source.data;
    const head = ["spot", "tissue x", "tissue y", "latent 1", "latent 2", shown.label];
    const value = (i) => (shown.categories.length ? told(shown, i) : Number.isFinite(valuesOf(shown)[i]) ? valuesOf(shown)[i] : "");
    return lines([head, ...Array.from(names, (name, i) => [name, x[i], y[i], u[i], v[i], value(i)])]);
  }

  async function svgOf(name) {
    const drawn = element(`plot-${name}`);
    if (drawn instanceof SVGElement) {
      const copy = drawn.cloneNode(true);
      copy.setAttribute("color", getComputedStyle(drawn).color);
      return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
    }
    const model = Bokeh.documents.flatMap((one) => one.roots()).find((one) => one.name === name);
    return await Bokeh.index.get_by_id(model.id).export("svg").to_blob();
  }

  for (const button of document.querySelectorAll("[data-csv]")) {
    button.addEventListener("click", () => save(`${button.dataset.csv}.csv`, tableOf(button.dataset.csv), "text/csv"));
  }
  for (const button of document.querySelectorAll("[data-svg]")) {
    button.addEventListener("click", async () => save(`${button.dataset.svg}.svg`, await svgOf(button.dataset.svg)));
  }
  element("spots-csv").addEventListener("click", () => save("spots.csv", spotsAsTable(), "text/csv"));

  // ---------------------------------------------------------------- controls

  const shapes = plots.map((plot) => plot.renderers.find((one) => one.name === `${plot.name}-spots`));
  function opaque(percent) {
    shapes[0].glyph.fill_alpha = percent / 100;
  }
  element("opacity")?.addEventListener("input", (event) => opaque(Number(event.target.value)));

  // One section: the other spots are left out of all views, and the tissue view shows where it is.
  function only(code) {
    const sections = channels.data.section;
    const members = code < 0 ? null : Array.from(sections, (one) => one === code);
    choose([]);
    reset();
    for (const shape of shapes) shape.view.filter.booleans = members;
    if (!members) return;
    const { x_range: across, y_range: down } = plots[0];
    const { x, y } = source.data;
    const ends = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < n; i++) {
      if (!members[i]) continue;
      ends[0] = Math.min(ends[0], x[i]); ends[1] = Math.max(ends[1], x[i]);
      ends[2] = Math.min(ends[2], y[i]); ends[3] = Math.max(ends[3], y[i]);
    }
    const ratio = (across.end - across.start) / (down.start - down.end);
    const high = 1.3 * Math.max(ends[3] - ends[2], (ends[1] - ends[0]) / ratio, 1);
    const [middle, centre] = [(ends[0] + ends[1]) / 2, (ends[2] + ends[3]) / 2];
    across.setv({ start: middle - (high * ratio) / 2, end: middle + (high * ratio) / 2 });
    down.setv({ start: centre + high / 2, end: centre - high / 2 });
  }
  element("section")?.addEventListener("change", (event) => only(Number(event.target.value)));

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

  element("color").addEventListener("change", (event) => {
    color(data.channels[Number(event.target.value)]);
    if (element("gene")) element("gene").value = element("found").textContent = "";
  });
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
  if (element("section")) element("section").value = "-1";
  if (element("opacity")) opaque(element("opacity").value = "70");
  color(data.channels[0]);
  document.documentElement.dataset.state = "views";

  // The charts come after the views have been painted.
  await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const charts = await embed(data.charts);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [views, charts].forEach(inPageColors));
  document.documentElement.dataset.state = "ready";
})();
