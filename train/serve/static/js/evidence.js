// Evidence beside an answer: neighbours with their labels, and what the clip lacks and why.
import { get } from "./api.js";
import { failure, fill, h, name, say } from "./dom.js";
import { emotion, served, t, why } from "./i18n.js";
import { href } from "./place.js";

export function neighbours(id, run) {
  const list = h("div", { class: "near" });
  const chooser = h("select", { "aria-label": t("near.by"), onchange: () => look(chooser.value) });
  const note = h("p", { class: "soft" });
  const card = h("section", { class: "card evidence", "aria-label": t("near") }, h("div", { class: "row between" }, h("h2", {}, t("near")), chooser), list, note);
  async function look(feature) {
    try {
      const found = await get("clip/neighbours", { id, feature, run, k: 6 });
      fill(chooser, ...found.features.map((key) => h("option", { value: key, selected: key === found.by }, `${t("near.by")} ${key}`)));
      fill(list, ...found.neighbours.map((each) =>
        h("a", { href: href({ view: "ask", clip: each.id, t: null }) }, h("strong", {}, emotion(each.label) || t("clips.empty")), h("span", { class: "soft" }, ...name(each.id)), h("span", { class: "soft" }, `cos ${each.cosine.toFixed(3)} ${each.split}`)),
      ));
      if (!found.neighbours.length) fill(list, t("near.none"));
      const { lang, words } = served(found.note);
      Object.assign(note, { lang, textContent: words });
    } catch (error) {
      chooser.remove();
      fill(list, failure(error));
    }
  }
  look("");
  return card;
}

export function missing(clip) {
  const rows = clip.features.map((each) =>
    h(
      "tr",
      {},
      h("td", {}, ...name(each.key), each.asked ? "" : h("span", { class: "soft" }, " ·")),
      h("td", {}, each.there ? h("span", { class: "good" }, t("yes")) : h("span", { class: "bad" }, t("no"))),
      h("td", {}, each.there ? h("span", { class: "soft", lang: "en" }, each.profile) : say("span", why(each.why)), each.there ? null : h("span", { class: "soft" }, ` (${t(each.retry ? "retry" : "final")})`)),
    ),
  );
  const gone = clip.features.filter((each) => !each.there).length;
  const title = gone ? `${t("features")} – ${t("features.missing")}` : t("features");
  const table = h("table", {}, h("thead", {}, h("tr", {}, h("th", {}, t("feature")), h("th", {}, t("there")), h("th", {}, ""))), h("tbody", {}, ...rows));
  return h("section", { class: "card evidence" }, h("details", { open: clip.features.some((each) => each.asked && !each.there) }, h("summary", {}, title), h("div", { class: "scroll" }, table)));
}
