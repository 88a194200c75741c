// All clips: filtered, sorted, as a list or a grid, a page at a time.
import { get, link } from "./api.js";
import { count, fill, h, name as broken, seconds, share, typing } from "./dom.js";
import { emotion, failed, t } from "./i18n.js";
import { go, href } from "./place.js";

const PAGE = 50;
const WORDS = ["dataset", "split", "label", "prediction", "failure"];
const CHECKS = { disagree: "clips.disagree", annotated: "clips.annotated", missing: "clips.missing" };
const SORTS = ["order", "name", "label", "prediction", "confidence", "split", "speaker", "length_s", "failure", "annotators"];
const CARRIED = ["q", ...WORDS, ...Object.keys(CHECKS), "differs", "selection", "speaker", "sort", "least", "most", "run"];

export async function show(holder, { about, place }) {
  const offset = Number(place.offset) || 0;
  const query = Object.fromEntries(CARRIED.filter((name) => place[name] !== undefined).map((name) => [name, place[name]]));
  const found = await get("clips", { ...query, run: about.run, offset, limit: PAGE });
  const grid = place.look === "grid";
  const body = grid ? tiles(found) : list(found, place);
  const title = h("div", { class: "row between" }, h("h1", {}, t("clips.title")), h("span", { class: "soft", role: "status" }, t("clips.found", { total: count(found.total), of: count(found.of) })));
  fill(holder, h("section", { class: "card" }, title, filters(found, place), found.clips.length ? body : h("p", { class: "soft" }, t("clips.nothing")), pages(found, offset)));
  return keys(holder, found, offset);
}

function filters(found, place) {
  const search = h("input", { type: "search", "data-keep": "q", value: place.q || "", placeholder: t("clips.search"), onchange: () => go({ q: search.value || null, offset: null }) });
  const parts = [h("label", {}, t("clips.search"), search)];
  for (const name of WORDS) {
    const words = Object.entries(found.counts[name]);
    const told = name === "failure" ? failed : ["label", "prediction"].includes(name) ? emotion : String;
    if (words.length < 2 && place[name] === undefined) continue;
    const options = words.map(([word, n]) => h("option", { value: word, selected: place[name] === word }, `${word ? told(word) : t("clips.empty")} (${count(n)})`));
    const chooser = h("select", { "data-keep": name, onchange: () => go({ [name]: chooser.selectedIndex ? chooser.value : null, offset: null }) }, h("option", {}, t("clips.any")), ...options);
    parts.push(h("label", {}, t(name), chooser));
  }
  const sort = place.sort || "order";
  const chooser = h("select", { "data-keep": "sort", onchange: () => go({ sort: chooser.value, offset: null }) }, ...SORTS.flatMap((name) =>
    ["", "-"].map((way) => h("option", { value: way + name, selected: sort === way + name }, t(name) + (way ? ` (${t("clips.down")})` : ""))),
  ));
  parts.push(h("label", {}, t("clips.sort"), chooser));
  for (const [name, words] of Object.entries(CHECKS)) {
    const box = h("input", { type: "checkbox", "data-keep": name, checked: place[name] === "true", onchange: () => go({ [name]: box.checked ? "true" : null, offset: null }) });
    parts.push(h("label", { class: "check" }, box, t(words)));
  }
  if (place.selection) parts.push(h("a", { class: "tag", href: href({ selection: null, offset: null }) }, `${t("clips.selection")} ✕`));
  if (place.differs) parts.push(h("a", { class: "tag", href: href({ differs: null, offset: null }) }, `${t("clips.differs", { run: place.differs })} ✕`));
  const looks = ["list", "grid"].map((name) =>
    h("button", { type: "button", "data-keep": name, "aria-pressed": String((place.look || "list") === name), onclick: () => go({ look: name === "grid" ? "grid" : null }) }, t(`clips.${name}`)),
  );
  const set = CARRIED.some((name) => name !== "run" && place[name] !== undefined);
  return h("div", { class: "filters" }, ...parts, ...looks, set ? h("a", { class: "button", href: href({ view: "clips", look: place.look }, true) }, t("clips.clear")) : null);
}

const to = (clip) => href({ view: "ask", clip: clip.id, t: null }, true);

function list(found, place) {
  const columns = ["name", "label", "prediction", "confidence", "split", "speaker", "length_s", "failure", "annotators"].filter(
    (name) => ["name", "label"].includes(name) || found.clips.some((clip) => clip[name] || (name === "prediction" && clip.outdated)),
  );
  const sort = place.sort || "order";
  const head = columns.map((name) => {
    const way = sort === name ? "ascending" : sort === `-${name}` ? "descending" : null;
    return h("th", { "aria-sort": way, scope: "col" }, h("button", { type: "button", "data-keep": `by-${name}`, onclick: () => go({ sort: sort === name ? `-${name}` : name, offset: null }) }, t(name), way ? (way === "ascending" ? " ▲" : " ▼") : ""));
  });
  const cell = {
    name: (clip) => [h("a", { href: to(clip) }, ...broken(clip.id)), clip.text ? h("div", { class: "soft" }, clip.text) : null],
    label: (clip) => emotion(clip.label),
    prediction: (clip) => clip.outdated ? h("span", { class: "soft" }, t("answer.outdated")) : h("span", { class: clip.disagrees ? "bad" : clip.label && clip.prediction ? "good" : null }, emotion(clip.prediction), clip.other ? ` / ${clip.other}` : ""),
    confidence: (clip) => share(clip.confidence),
    length_s: (clip) => seconds(clip.length_s),
    failure: (clip) => failures(clip.failure ?? ""),
    annotators: (clip) => (clip.annotators ? String(clip.annotators) : ""),
  };
  const rows = found.clips.map((clip) => h("tr", { "data-id": clip.id }, ...columns.map((name) => h("td", {}, cell[name] ? cell[name](clip) : clip[name] ?? ""))));
  return h("div", { class: "scroll" }, h("table", { class: "clips" }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows)));
}

/** The first kind of failure of a clip, and how many more there are; all of them where a pointer rests. */
function failures(kinds) {
  const [first, ...more] = kinds.split(", ").map(failed);
  return more.length ? h("span", { title: [first, ...more].join(", ") }, first, h("span", { class: "soft" }, ` +${more.length}`)) : first;
}

function tiles(found) {
  return h("div", { class: "grid" }, ...found.clips.map((clip) =>
    h("a", { class: "tile", href: to(clip), "data-id": clip.id },
      clip.media ? h("video", { src: `${link("clip/media", { id: clip.id })}#t=0.5`, preload: "metadata", muted: true, tabindex: "-1", "aria-hidden": "true" }) : null,
      h("strong", {}, ...broken(clip.id)),
      h("span", {}, emotion(clip.label), clip.prediction ? h("span", { class: clip.disagrees ? "bad" : "good" }, ` → ${emotion(clip.prediction)} ${share(clip.confidence)}`) : clip.outdated ? h("span", { class: "soft" }, ` → ${t("answer.outdated")}`) : null),
      h("span", { class: "soft" }, clip.text)),
  ));
}

function pages(found, offset) {
  const from = found.total ? offset + 1 : 0;
  const until = Math.min(offset + PAGE, found.total);
  const move = (next, words) => h("button", { type: "button", "data-keep": words, disabled: next < 0 || next >= found.total || next === offset, onclick: () => go({ offset: next || null }) }, t(words));
  return h("div", { class: "row" }, move(offset ? Math.max(0, offset - PAGE) : -1, "clips.before"), h("span", { class: "soft" }, t("clips.page", { from: count(from), to: count(until) })), move(offset + PAGE, "clips.next"));
}

/** J and K walk through the lines, Enter opens one. */
function keys(holder, found) {
  let at = -1;
  const pressed = (event) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey || !found.clips.length) return;
    const step = { j: 1, k: -1 }[event.key.toLowerCase()];
    if (!step) return;
    at = Math.min(found.clips.length - 1, Math.max(0, at + step));
    const row = holder.querySelectorAll("[data-id]")[at];
    holder.querySelectorAll("tr[aria-selected]").forEach((each) => each.removeAttribute("aria-selected"));
    if (row.tagName === "TR") row.setAttribute("aria-selected", "true");
    (row.querySelector("a") || row).focus();
    row.scrollIntoView({ block: "nearest" });
  };
  document.addEventListener("keydown", pressed);
  return () => document.removeEventListener("keydown", pressed);
}

