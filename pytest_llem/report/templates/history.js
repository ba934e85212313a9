"use strict";
// Filters, zoom and reading of single results; what it draws is what the page shows without it, from all results.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const HEIGHT = 280, TOP = 16, BOTTOM = 232, DAY_S = 86400, MANY = 300, LETTERS = 12;
  const PREFIXES = { "-9": "n", "-6": "u", "-3": "m", 0: "", 3: "k", 6: "M" };
  const SVG = "http://www.w3.org/2000/svg";
  const form = document.getElementById("filters");
  const sections = [...document.querySelectorAll(".experiment")];
  const rows = [...document.querySelectorAll(".events tr[data-when]")];

  const summed = (steps) => { let sum = 0; return steps.map((step) => (sum += step)); };
  const when = summed(data.when);
  for (const experiment of data.experiments)
    for (const series of experiment.series) series.session = summed(series.session);

  // What the reader has chosen. Boards and branches go by name, so that a link outlives the page.
  const NAMES = ["experiment", "board", "branch", "quantity", "from", "to"];
  let chosen = {}, first = when[0], last = when[when.length - 1];

  function options(name, values, texts = values) {
    values.forEach((value, at) => {
      if (value) form.elements[name].append(new Option(texts[at], value));
    });
  }
  const shown = new Set(data.experiments.flatMap((one) => one.series.flatMap((series) => Object.keys(series.values))));
  const quantities = Object.keys(data.quantities).filter((key) => shown.has(key));
  options("board", [...data.boards].sort());
  options("branch", [...data.branches].sort());
  options("quantity", quantities, quantities.map((key) => data.quantities[key].name));

  function number(value, unit, digits = 4) {
    const power = Math.min(6, Math.max(-9, 3 * Math.floor(Math.log10(Math.abs(value)) / 3))) || 0;
    return `${(value / 10 ** power).toPrecision(digits)} ${PREFIXES[power]}${unit}`;
  }
  const date = (seconds) => new Date(1000 * seconds).toISOString();
  const minute = (seconds) => date(seconds).slice(0, 16).replace("T", " ");

  function element(parent, name, attributes = {}, text = null) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== null) made.textContent = text;
    parent.append(made);
    return made;
  }
  const shape = (name) => document.getElementById(`mark-${name}`).getAttribute("d");
  const SHAPES = Object.fromEntries(
    [...data.shapes, "now", "improved", "accepted", "invalid"].map((name) => [name, shape(name)]));

  const letter = (place) => (place >= 26 ? letter(Math.floor(place / 26) - 1) : "") + String.fromCharCode(65 + (place % 26));
  const onBoard = (series) => !chosen.board || data.boards[series.board] === chosen.board;
  function isShown(series, at) {
    const session = series.session[at], time = when[session];
    return time >= first && time <= last && (!chosen.branch || data.branches[data.branch[session]] === chosen.branch);
  }
  const named = (experiment) => experiment.name.toLowerCase().includes((chosen.experiment || "").toLowerCase());

  // Where values lie, and round numbers beside them: as in the plots that Python draws.
  function scale(low, high, from, to) {
    let margin = 0.06 * (high - low);
    if (margin <= 1e-9 * Math.abs(high)) margin = 0.05 * Math.abs(high) || 1;
    return [low - margin, high + margin, (value) => from + ((value - low + margin) / (high - low + 2 * margin)) * (to - from)];
  }
  function valueTicks(low, high, unit) {
    const least = (high - low) / 6, power = 10 ** Math.floor(Math.log10(least));
    const step = [1, 2, 2.5, 5, 10].find((one) => one * power >= least) * power;
    const prefix = Math.min(6, Math.max(-9, 3 * Math.floor(Math.log10(high) / 3)));
    const decimals = Math.min(9, Math.max(0, Math.ceil(-Math.log10((step / 10 ** prefix) * 1.0001)) + (step / power === 2.5 ? 1 : 0)));
    const ticks = [];
    for (let count = Math.ceil(low / step); count * step <= high; count++)
      ticks.push([count * step, `${((count * step) / 10 ** prefix).toFixed(decimals)} ${PREFIXES[prefix]}${unit}`]);
    return ticks;
  }
  function dateTicks(low, high, most) {
    const days = high - low > 4 * DAY_S;
    return Array.from({ length: most }, (_, at) => low + ((high - low) * (at + 0.5)) / most)
      .map((time) => [time, days ? date(time).slice(0, 10) : date(time).slice(5, 16).replace("T", " ")]);
  }

  function marksOf(series, key, number) {
    const metric = data.quantities[key].like || key, verdicts = series.verdict[metric] || "";
    const style = `s${number % data.colours} ${data.shapes[number % data.shapes.length]}`;
    const marks = [];
    series.session.forEach((session, at) => {
      if (!isShown(series, at)) return;
      const value = series.values[key][at], state = series.state[at];
      const mark = { series, at, session, time: when[session], value, style };
      if (state === "x") mark.style = "invalid";
      else if (value === null) return;
      else if (state === "a") mark.style = "wanted accepted";
      else if ("Rr".includes(verdicts[at] || "-")) mark.style = "regressed now";
      else if ("Bb".includes(verdicts[at] || "-")) mark.style = "better improved";
      else if (data.dirty[session] === "1") mark.style += " dirty";
      marks.push(mark);
    });
    return marks;
  }

  function draw(box) {
    const svg = box.querySelector("figure > svg"), key = box.dataset.quantity, { name, unit } = data.quantities[key];
    const experiment = data.experiments[box.closest(".experiment").dataset.experiment];
    const width = Math.max(280, Math.round(svg.clientWidth || 480));
    const all = experiment.series.map((series, at) =>
      series.values[key] && onBoard(series) ? marksOf(series, key, at) : []);
    const marks = all.flat(), valid = marks.filter((mark) => mark.style !== "invalid");
    svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    svg.setAttribute("tabindex", "0");
    svg.replaceChildren(...svg.querySelectorAll(":scope > title, :scope > desc"));
    box.marks = marks;
    box.querySelector(".reading").textContent = marks.length ? "" : "Nothing of it fits the filters.";
    if (!marks.length) return;
    const values = valid.length ? valid.map((mark) => mark.value) : [0, 1];
    let low = values[0], high = values[0];
    for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
    const bottom = BOTTOM - (valid.length < marks.length ? 14 : 0);
    const [below, above, down] = scale(low, high, bottom, TOP);
    const yTicks = valid.length ? valueTicks(below, above, unit) : [];
    const left = 34 + 8 * Math.max(4, ...yTicks.map(([, text]) => text.length)), right = width - 16;
    const begin = Math.min(...marks.map((mark) => mark.time)), end = Math.max(...marks.map((mark) => mark.time));
    const [, , across] = scale(begin, end, left, right);
    const xTicks = dateTicks(begin, end, begin === end ? 1 : Math.max(2, Math.min(8, Math.floor((right - left) / 130))));
    const guide = yTicks.map(([at]) => `M${left} ${down(at).toFixed(1)}H${right}`)
      .concat(xTicks.map(([at]) => `M${across(at).toFixed(1)} ${TOP}V${BOTTOM}`), `M${left} ${TOP}V${BOTTOM}H${right}`);
    element(svg, "path", { class: "guide", d: guide.join("") });
    for (const [at, text] of yTicks) element(svg, "text", { class: "tick-y", x: left - 6, y: down(at), dy: 4.5 }, text);
    for (const [at, text] of xTicks)
      element(svg, "text", { class: "tick-x", x: across(at), y: BOTTOM + 19 }, text);
    element(svg, "text", { class: "axis-title", x: (left + right) / 2, y: HEIGHT - 9 }, "date");
    const middle = (TOP + BOTTOM) / 2;
    element(svg, "text", { class: "axis-title", transform: `translate(16 ${middle}) rotate(-90)` }, name);

    // One path for all marks of a kind: thousands of elements would be slow.
    const paths = new Map();
    for (const mark of marks) {
      mark.x = across(mark.time);
      mark.y = mark.style === "invalid" ? BOTTOM - 7 : down(mark.value);
      if (!paths.has(mark.style)) paths.set(mark.style, []);
      const drawn = SHAPES[mark.style.split(" ").find((word) => word in SHAPES)];
      paths.get(mark.style).push(`M${mark.x.toFixed(1)} ${mark.y.toFixed(1)}${drawn}`);
    }
    const ofSeries = [...paths.keys()].filter((style) => /^s\d/.test(style));
    for (const style of [...ofSeries, ...[...paths.keys()].filter((one) => !ofSeries.includes(one))]) {
      const many = marks.length > MANY && ofSeries.includes(style) ? " many" : "";
      const group = element(svg, "g", { class: `points ${style}${many}` });
      element(group, "path", { d: paths.get(style).join("") });
    }
    const lettered = all.filter((one) => one.length).length;
    experiment.series.forEach((series, at) => {
      const levels = (series.levels[key] || []).filter(() => all[at].length);
      const lines = [], moved = [];
      levels.forEach(([from, to, mean], place) => {
        const [start, stop] = [from, to].map((one) => when[series.session[one]]);
        if (stop < begin || start > end || mean < below || mean > above) return;
        lines.push(`M${across(Math.max(start, begin)).toFixed(1)} ${down(mean).toFixed(1)}H${across(Math.min(stop, end)).toFixed(1)}`);
        if (place && start >= begin) moved.push(`M${across(start).toFixed(1)} ${TOP}V${BOTTOM}`);
      });
      if (!lines.length) return;
      element(element(svg, "g", { class: "segments shift" }), "path", { d: moved.join("") });
      element(element(svg, "g", { class: `segments level s${at % data.colours}` }), "path", { d: lines.join("") });
      const newest = all[at].filter((mark) => mark.style !== "invalid").pop();
      if (experiment.series.length > 1 && lettered <= LETTERS && newest)
        element(svg, "text", { class: "letter", x: Math.min(newest.x + 7, width - 14), y: newest.y - 7 }, letter(at));
    });
    box.cursor = element(svg, "g", { class: "cursor" });
    box.toTime = (x) => begin + ((Math.min(right, Math.max(left, x)) - left) / (right - left)) * (end - begin);
    marks.sort((one, other) => one.x - other.x || one.y - other.y);
  }

  function read(box, mark) {
    const { series, at, session } = mark, key = box.dataset.quantity, { unit, like } = data.quantities[key];
    const value = series.values[key][at], width = series.widths[key][at];
    const verdict = (series.verdict[like || key] || "")[at] || ".";
    const branch = data.branches[data.branch[session]];
    const parts = [
      `${minute(when[session])}, commit ${data.commits[data.commit[session]]}${branch ? ` on ${branch}` : ""}`
        + (data.dirty[session] === "1" ? " with uncommitted changes" : ""),
      value === null ? "not measured" : number(value, unit) + (width ? ` ± ${(width / 1e4).toPrecision(2)}%` : ""),
      verdict === "." ? "" : data.verdicts[verdict.toUpperCase()] + (verdict === verdict.toLowerCase() ? " (judged afterwards)" : ""),
      series.state[at] === "a" ? "accepted" : series.state[at] === "x" ? `invalid: ${data.reasons[series.why[at]] || "it does not say why"}` : "",
      [`${letter(data.experiments[box.closest(".experiment").dataset.experiment].series.indexOf(series))}: ${data.boards[series.board]}`,
        series.apart].filter(Boolean).join(", "),
    ];
    box.querySelector(".reading").textContent = parts.filter(Boolean).join(" · ");
    box.at = box.marks.indexOf(mark);
    box.cursor.replaceChildren();
    element(box.cursor, "path", { d: `M${mark.x - 8} ${mark.y}a8 8 0 1 0 16 0a8 8 0 1 0-16 0z` });
  }

  function nearest(box, x, y) {
    let found = null, least = Infinity;
    for (const mark of box.marks) {
      const distance = (mark.x - x) ** 2 + ((mark.y - y) / 2) ** 2;
      if (distance < least) [found, least] = [mark, distance];
    }
    return found;
  }

  function listen(box) {
    const svg = box.querySelector("figure > svg");
    let began = null;
    const place = (event) => {
      const bounds = svg.getBoundingClientRect(), factor = svg.viewBox.baseVal.width / bounds.width;
      return [(event.clientX - bounds.left) * factor, (event.clientY - bounds.top) * factor];
    };
    svg.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && box.toTime) { [began] = place(event); svg.setPointerCapture(event.pointerId); }
    });
    svg.addEventListener("pointermove", (event) => {
      if (!box.marks || !box.marks.length) return;
      const [x, y] = place(event);
      read(box, nearest(box, x, y));
      if (began !== null && Math.abs(x - began) > 8) {
        const [from, to] = [began, x].sort((one, other) => one - other);
        element(box.cursor, "path", { class: "dragged", d: `M${from} ${TOP}H${to}V${BOTTOM}H${from}Z` });
      }
    });
    svg.addEventListener("pointercancel", () => { began = null; });
    svg.addEventListener("pointerup", (event) => {
      if (began === null) return;
      const [x] = place(event), ends = [began, x].map(box.toTime).sort((one, other) => one - other);
      if (Math.abs(x - began) > 8) choose({ from: date(ends[0]).slice(0, 10), to: date(ends[1]).slice(0, 10) });
      else if (box.marks.length) read(box, nearest(box, ...place(event)));
      began = null;
    });
    svg.addEventListener("dblclick", () => choose({ from: "", to: "" }));
    svg.addEventListener("keydown", (event) => {
      if (event.key === "Escape") choose({ from: "", to: "" });
      const count = (box.marks || []).length, at = box.at ?? count;
      const next = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: count - 1 }[event.key];
      if (next === undefined || !count) return;
      event.preventDefault();
      read(box, box.marks[Math.max(0, Math.min(count - 1, next))]);
    });
  }

  const boxes = [...document.querySelectorAll(".over-time")];
  const near = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      target.isNear = isIntersecting;
      if (isIntersecting && target.isStale) redraw(target);
    }
  }, { rootMargin: "400px" });
  const sizes = new ResizeObserver((entries) => {
    for (const { target, contentRect } of entries) {
      if (target.width !== contentRect.width) { target.width = contentRect.width; stale(target); }
    }
  });
  function redraw(box) { box.isStale = false; box.at = undefined; draw(box); }
  function stale(box) { box.isStale = true; if (box.isNear && !box.hidden) redraw(box); }

  const seconds = (text, otherwise, days) => {
    const time = Date.parse(`${text}T00:00:00Z`) / 1000;
    return Number.isNaN(time) ? otherwise : time + days * DAY_S;
  };

  function apply() {
    first = seconds(chosen.from, -Infinity, 0);
    last = seconds(chosen.to, Infinity, 1) - 1;
    let results = 0, total = 0, experiments = 0;
    data.experiments.forEach((experiment, number) => {
      let here = 0;
      for (const series of experiment.series) {
        total += series.session.length;
        if (named(experiment) && onBoard(series))
          for (let at = 0; at < series.session.length; at++) here += isShown(series, at);
      }
      sections[number].hidden = !here;
      results += here;
      experiments += here > 0;
    });
    for (const row of rows) {
      const { board, branch, quantities: moved, when: time } = row.dataset;
      const name = data.experiments[row.querySelector("a").hash.slice(2) - 1];
      row.hidden = !(named(name) && (!chosen.board || board === chosen.board) && (!chosen.branch || branch === chosen.branch)
        && (!chosen.quantity || moved.split(" ").includes(data.quantities[chosen.quantity].like || chosen.quantity))
        && time >= first && time <= last);
    }
    for (const body of document.querySelectorAll(".events tbody"))
      body.hidden = ![...body.querySelectorAll("tr[data-when]")].some((row) => !row.hidden);
    for (const box of boxes) {
      box.hidden = Boolean(chosen.quantity) && box.dataset.quantity !== chosen.quantity;
      box.classList.toggle("alone", Boolean(chosen.quantity));
      stale(box);
    }
    document.getElementById("count").textContent =
      `${results} of ${total} results, ${experiments} of ${data.experiments.length} experiments`;
  }

  function choose(changes, remember = true) {
    chosen = { ...chosen, ...changes };
    for (const name of NAMES) {
      const field = form.elements[name];
      // A board, a branch or a date that is none here is dropped.
      field.value = field.type !== "date" || /^\d{4}-\d\d-\d\d$/.test(chosen[name]) ? chosen[name] || "" : "";
      chosen[name] = field.value;
    }
    const set = NAMES.filter((name) => chosen[name]).map((name) => [name, chosen[name]]);
    if (remember) history.replaceState(null, "", `#${new URLSearchParams(set)}`);
    apply();
  }

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    if (!location.hash.includes("=") && location.hash.length > 1) return false;
    choose(Object.fromEntries(NAMES.map((name) => [name, given.get(name) || ""])), false);
    return true;
  }

  form.addEventListener("input", () => choose(Object.fromEntries(NAMES.map((name) => [name, form.elements[name].value]))));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", (event) => {
    event.preventDefault();
    choose(Object.fromEntries(NAMES.map((name) => [name, ""])));
  });
  addEventListener("hashchange", fromAddress);
  // On paper there is nothing to scroll to.
  addEventListener("beforeprint", () => boxes.filter((box) => box.isStale && !box.hidden).forEach(redraw));
  // Links within the page leave the filters in the address.
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    const target = link && document.getElementById(link.hash.slice(1));
    if (!target) return;
    event.preventDefault();
    target.scrollIntoView();
    target.focus({ preventScroll: true });
  });

  form.hidden = document.getElementById("keys").hidden = false;
  for (const box of boxes) {
    const reading = document.createElement("p");
    reading.className = "reading";
    reading.setAttribute("aria-live", "polite");
    box.querySelector("figure").append(reading);
    // All results are drawn.
    for (const text of [...box.querySelector("figcaption").childNodes].slice(1)) text.remove();
    listen(box);
    near.observe(box);
    sizes.observe(box);
  }
  if (!fromAddress()) {
    choose({}, false);
    const target = document.getElementById(location.hash.slice(1));
    if (target) target.scrollIntoView();
  }
})();
