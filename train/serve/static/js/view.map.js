// All clips in the plane by one feature; a lasso selects some of them.
import { get, post } from "./api.js";
import { count, fill, h, labelColour, paint } from "./dom.js";
import { emotion, served, t } from "./i18n.js";
import { go, href } from "./place.js";

const REACH = 12; // pixels from a point that still mean it

export async function show(holder, { about, place }) {
  const found = await get("map", { feature: place.feature, method: place.method || "pca", run: about.run });
  const by = place.by === "prediction" ? "prediction" : "label";
  const words = found.words[by];
  const labels = about.labels;
  const options = (values, chosen) => values.map((each) => h("option", { value: each, selected: each === chosen }, each));
  const feature = h("select", { "aria-label": t("feature"), "data-keep": "feature", onchange: () => go({ feature: feature.value }) }, ...options(found.features, found.feature));
  const method = h("select", { "aria-label": t("map.method"), "data-keep": "method", onchange: () => go({ method: method.value }) }, ...found.methods.map((each) => h("option", { value: each, selected: each === found.method }, each.toUpperCase())));
  const paintBy = h("select", { "aria-label": t("map.by"), "data-keep": "by", onchange: () => go({ by: paintBy.value }) }, ...["label", "prediction"].map((name) => h("option", { value: name, selected: name === by }, t(name))));
  const canvas = h("canvas", { role: "img", "aria-label": t("map.say", { n: count(found.ids.length), feature: found.feature }) });
  const box = h("div", { class: "map" }, canvas);
  const said = h("p", { class: "row", "aria-live": "polite" }, h("span", { class: "soft" }, t("map.help")));
  const used = [...new Set(found[by])].map((code) => words[code]).sort();
  const legend = h("div", { class: "legend" }, ...used.map((word) => {
    const dot = h("span", { class: "dot" });
    dot.style.background = labelColour(word, labels);
    return h("span", {}, dot, word ? emotion(word) : t("clips.empty"));
  }));
  const told = served(found.told);
  const random = ["tiny", "random"].includes(found.profile) ? h("p", { class: "warning" }, t("random")) : null;
  fill(holder, h("section", { class: "card" }, h("div", { class: "row between" }, h("h1", {}, t("nav.map")), h("div", { class: "row" }, feature, method, paintBy)), random, box, legend, said, h("p", { class: "soft", lang: told.lang }, told.words)));

  const colours = words.map((word) => labelColour(word, labels));
  let lasso = [];
  let chosen = null;
  const at = (i) => {
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    return [wide / 2 + (found.x[i] * (wide - 24)) / 2, high / 2 - (found.y[i] * (high - 24)) / 2];
  };
  const draw = () => {
    const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
    if (!wide) return;
    const size = found.ids.length > 5000 ? 1.6 : found.ids.length > 500 ? 3 : 5;
    paint(canvas, wide, high, (pen) => {
      for (let i = 0; i < found.ids.length; i++) {
        const [x, y] = at(i);
        pen.globalAlpha = chosen && !chosen.has(i) ? 0.15 : 0.85;
        pen.fillStyle = colours[found[by][i]];
        if (size < 3) pen.fillRect(x - size, y - size, 2 * size, 2 * size);
        else {
          pen.beginPath();
          pen.arc(x, y, size, 0, 7);
          pen.fill();
        }
      }
      pen.globalAlpha = 1;
      if (lasso.length < 2) return;
      pen.strokeStyle = colours[0];
      pen.lineWidth = 1.5;
      pen.setLineDash([4, 3]);
      pen.beginPath();
      for (const [x, y] of lasso) pen.lineTo(x, y);
      pen.closePath();
      pen.stroke();
    });
  };
  const watcher = new ResizeObserver(draw);
  watcher.observe(canvas);

  const where = (event) => {
    const inside = canvas.getBoundingClientRect();
    return [event.clientX - inside.left, event.clientY - inside.top];
  };
  box.addEventListener("pointerdown", (event) => {
    box.setPointerCapture(event.pointerId);
    lasso = [where(event)];
  });
  box.addEventListener("pointermove", (event) => {
    if (lasso.length && event.buttons) {
      lasso.push(where(event));
      draw();
    } else hover(where(event));
  });
  box.addEventListener("pointerup", async (event) => {
    const [first, last] = [lasso[0], where(event)];
    if (!first) return;
    if (lasso.length < 4 && Math.hypot(first[0] - last[0], first[1] - last[1]) < 4) {
      const hit = near(last);
      lasso = [];
      if (hit >= 0) go({ view: "ask", clip: found.ids[hit] }, { fresh: true });
      return;
    }
    chosen = new Set();
    for (let i = 0; i < found.ids.length; i++) if (inside(at(i), lasso)) chosen.add(i);
    lasso = [];
    draw();
    if (!chosen.size) {
      chosen = null;
      draw();
      return;
    }
    const { selection, clips } = await post("select", { ids: [...chosen].map((i) => found.ids[i]) });
    fill(said, h("a", { class: "button", href: href({ view: "clips", selection }, true) }, t("map.open", { n: count(clips) })), h("button", { type: "button", onclick: clear }, t("clips.clear")));
  });

  function clear() {
    chosen = null;
    draw();
    fill(said, h("span", { class: "soft" }, t("map.help")));
  }

  function near([x, y]) {
    let [best, least] = [-1, REACH];
    for (let i = 0; i < found.ids.length; i++) {
      const [a, b] = at(i);
      const far = Math.hypot(a - x, b - y);
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }

  function hover(point) {
    const hit = near(point);
    box.title = hit < 0 ? "" : `${found.ids[hit]}  ${found.words.label[found.label[hit]]} → ${found.words.prediction[found.prediction[hit]]}`;
  }
  return () => watcher.disconnect();
}

/** Say whether a point is inside a polygon (even-odd rule). */
function inside([x, y], polygon) {
  let odd = false;
  for (let i = 0, j = polygon.length - 1; i < polygon.length; j = i++) {
    const [[a, b], [c, d]] = [polygon[i], polygon[j]];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) odd = !odd;
  }
  return odd;
}
