// Two runs side by side, with the clips where they differ.
import { get } from "./api.js";
import { count, failure, fill, h, share } from "./dom.js";
import { emotion, served, t } from "./i18n.js";
import { go, href } from "./place.js";

export async function show(holder, { about, place }) {
  const others = about.runs.map((run) => run.name).filter((name) => name !== about.run);
  const card = h("section", { class: "card" }, h("h1", {}, t("compare.title")));
  fill(holder, card);
  if (!others.length) {
    card.append(h("p", { class: "soft" }, t(about.run ? "compare.one" : "no-run")));
    return;
  }
  const other = others.includes(place.differs) ? place.differs : others[0];
  const box = h("select", { "aria-label": t("compare.with"), "data-keep": "differs", onchange: () => go({ differs: box.value }) }, ...others.map((name) => h("option", { value: name, selected: name === other }, name)));
  card.append(h("div", { class: "row" }, h("strong", {}, about.run), t("compare.with"), box));
  let found;
  try {
    found = await get("compare", { run: about.run, differs: other, split: place.split });
  } catch (error) {
    card.append(failure(error));
    return;
  }
  card.append(h("p", {}, t("compare.said", { n: count(found.answered), same: count(found.same) })));
  if (found.outdated) card.append(h("p", { class: "soft" }, t("compare.outdated", { n: count(found.outdated) })));
  const note = served(found.note);
  if (found.note) card.append(h("p", { class: "warning", lang: note.lang }, note.words));
  if (found.test) card.append(h("div", { class: "scroll" }, table(found)), h("p", { class: "soft" }, t("compare.test", { p: found.test.p.toPrecision(3), n: count(found.test.n) })));
  const all = href({ view: "clips", differs: other }, true);
  const pairs = found.pairs.map((each) => h("tr", {}, h("td", {}, emotion(each.one)), h("td", {}, emotion(each.two)), h("td", { class: "number" }, count(each.n))));
  if (pairs.length)
    card.append(
      h("div", { class: "row between" }, h("h2", {}, t("compare.differ")), h("a", { class: "button", href: all }, t("compare.open"))),
      h("div", { class: "scroll" }, h("table", { class: "tight" }, h("thead", {}, h("tr", {}, h("th", {}, about.run), h("th", {}, other), h("th", { class: "number" }, t("clips.title")))), h("tbody", {}, ...pairs))),
    );
  else card.append(h("p", { class: "soft" }, t("compare.none")));
}

function table({ run, other, test }) {
  const row = (name, pair, difference) =>
    h("tr", {}, h("td", {}, t(name)), ...pair.map((value) => h("td", { class: "number" }, share(value))),
      h("td", { class: "number" }, `${(100 * difference.value).toFixed(1)} `, h("span", { class: "soft" }, `(${(100 * difference.low).toFixed(1)}\u00a0…\u00a0${(100 * difference.high).toFixed(1)})`)));
  const head = h("tr", {}, h("th", {}, ""), h("th", { class: "number" }, run), h("th", { class: "number" }, other), h("th", { class: "number" }, t("compare.difference")));
  const only = h("tr", {}, h("td", {}, t("compare.only")), h("td", { class: "number" }, count(test.only_a)), h("td", { class: "number" }, count(test.only_b)), h("td", {}, ""));
  return h("table", { class: "tight" }, h("thead", {}, head), h("tbody", {}, row("accuracy", test.accuracy, test.accuracy_difference), row("f1", test.f1_weighted, test.f1_difference), only));
}
