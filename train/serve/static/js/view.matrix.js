// The confusion matrix, whose cells open their clips; scores by label; how far confidence can be believed.
import { get } from "./api.js";
import { colour, count, fill, h, paint, share } from "./dom.js";
import { emotion, served, t } from "./i18n.js";
import { go, href } from "./place.js";

export async function show(holder, { about, place }) {
  if (!about.run) {
    fill(holder, h("section", { class: "card" }, h("h1", {}, t("matrix.title")), h("p", { class: "soft" }, t("no-run"))));
    return;
  }
  const found = await get("confusion", { run: about.run, split: place.split, dataset: place.dataset });
  const { counts } = await get("clips", { run: about.run, limit: 1 });
  const head = h("div", { class: "row between" }, h("h1", {}, t("matrix.title")), choosers(counts, place));
  const scores = [
    found.accuracy === null ? null : `${t("accuracy")} ${share(found.accuracy)}`,
    found.f1_weighted === null ? null : `${t("f1")} ${share(found.f1_weighted)}`,
    t("matrix.n", { n: count(found.n), lacking: count(found.unanswered) }),
  ].filter(Boolean);
  const note = served(found.note);
  const main = h("section", { class: "card" }, head, h("p", {}, scores.join(" · ")), found.note ? h("p", { class: "warning", lang: note.lang }, note.words) : null);
  if (found.outdated) main.append(h("p", { class: "soft" }, t("matrix.outdated", { n: count(found.outdated) })));
  if (found.n) main.append(h("div", { class: "scroll" }, matrix(found, place)), h("p", { class: "soft" }, t("matrix.help")));
  else main.append(h("p", { class: "soft" }, t("matrix.none")));
  const side = h("section", { class: "card" }, h("h2", {}, t("reliability")));
  if (found.reliability) side.append(...reliability(found.reliability));
  else side.append(h("p", { class: "soft" }, t("reliability.none")));
  const scored = h("section", { class: "card" }, h("h2", {}, t("by-label")), classes(found));
  fill(holder, h("div", { class: "ask" }, main, h("div", {}, scored, side)));
}

function choosers(counts, place) {
  return h("div", { class: "filters" }, ...["dataset", "split"].map((name) => {
    const words = Object.keys(counts[name]);
    if (words.length < 2) return null;
    const box = h("select", { "data-keep": name, onchange: () => go({ [name]: box.selectedIndex ? box.value : null }) }, h("option", {}, t("clips.any")), ...words.map((word) => h("option", { value: word, selected: place[name] === word }, word || t("clips.empty"))));
    return h("label", {}, t(name), box);
  }));
}

function matrix(found, place) {
  const most = Math.max(1, ...found.counts.flat());
  const dark = document.documentElement.dataset.theme === "dark";
  const cell = (row, column) => {
    const n = found.counts[row][column];
    const to = href({ view: "clips", label: found.labels[row], prediction: found.labels[column], split: place.split, dataset: place.dataset }, true);
    const link = h("a", { href: to, "aria-label": t("matrix.cell", { n, label: found.labels[row], answer: found.labels[column] }) }, String(n));
    const one = h("td", {}, link);
    const strength = Math.round(70 * (n / most));
    if (n) one.style.background = `color-mix(in srgb, var(--${row === column ? "good" : "bad"}) ${dark ? strength * 0.6 : strength * 0.5}%, transparent)`;
    return one;
  };
  const top = h("tr", {}, h("td", { class: "soft" }, `${t("label")} ↓ ${t("prediction")} →`), ...found.labels.map((label) => h("th", { scope: "col" }, emotion(label))));
  const rows = found.labels.map((label, row) => h("tr", {}, h("th", { scope: "row" }, emotion(label)), ...found.labels.map((_, column) => cell(row, column))));
  return h("table", { class: "matrix" }, h("thead", {}, top), h("tbody", {}, ...rows));
}

function classes(found) {
  const number = (value) => h("td", { class: "number" }, value.toFixed(3));
  const head = ["label", "precision", "recall", "f1.plain", "clips.title"].map((name, i) => h("th", { class: i ? "number" : null, scope: "col" }, t(name)));
  const rows = found.per_class.map((each) => h("tr", {}, h("td", {}, emotion(each.label)), number(each.precision), number(each.recall), number(each.f1), h("td", { class: "number" }, count(each.n))));
  return h("div", { class: "scroll" }, h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)));
}

function reliability(found) {
  const canvas = h("canvas", { role: "img", "aria-label": t("reliability.say", { ece: share(found.ece) }) });
  canvas.style.width = "100%";
  canvas.style.height = "16rem";
  const draw = () => {
    const [ink, line, soft] = ["bar", "line", "soft"].map(colour);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    paint(canvas, width, height, (pen) => {
      const [left, bottom, wide, high] = [42, height - 30, width - 66, height - 42]; // room for half of "100 %" on the right
      pen.font = "11px system-ui";
      pen.fillStyle = soft;
      pen.strokeStyle = line;
      for (let i = 0; i <= 4; i++) {
        const [x, y] = [left + (wide * i) / 4, bottom - (high * i) / 4];
        pen.strokeRect(left, y, wide, 0);
        pen.textAlign = "right";
        pen.fillText(`${25 * i} %`, left - 6, y + 4);
        pen.textAlign = "center";
        pen.fillText(`${25 * i} %`, x, height - 14);
      }
      pen.setLineDash([4, 4]);
      pen.strokeStyle = soft;
      pen.beginPath();
      pen.moveTo(left, bottom);
      pen.lineTo(left + wide, bottom - high);
      pen.stroke();
      pen.setLineDash([]);
      pen.fillStyle = pen.strokeStyle = ink;
      pen.lineWidth = 2;
      pen.beginPath();
      const largest = Math.max(...found.bins.map((each) => each.n));
      for (const each of found.bins) pen.lineTo(left + wide * each.confidence, bottom - high * each.accuracy);
      pen.stroke();
      for (const each of found.bins) {
        pen.beginPath();
        pen.arc(left + wide * each.confidence, bottom - high * each.accuracy, 3 + 7 * Math.sqrt(each.n / largest), 0, 7);
        pen.fill();
      }
    });
  };
  new ResizeObserver(draw).observe(canvas);
  return [canvas, h("p", { class: "soft" }, t("reliability.axes")), h("p", {}, t("reliability.say", { ece: share(found.ece) }))];
}
