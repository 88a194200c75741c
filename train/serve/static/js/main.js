// The frame of the page: header, notes, and the view that the link names. Each view is one module.
import { get } from "./api.js";
import { fill, failure, h, typing } from "./dom.js";
import { lang, setLanguage, t } from "./i18n.js";
import { follow, go, href, place } from "./place.js";

const VIEWS = ["ask", "clips", "matrix", "map", "compare", "annotate", "jobs"];
const state = { about: null, view: null };

const top = document.getElementById("top");
const notes = document.getElementById("notes");
const main = document.getElementById("view");

function theme(next) {
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = next || localStorage.getItem("emo-theme") || (dark ? "dark" : "light");
  if (next) localStorage.setItem("emo-theme", next);
  document.documentElement.dataset.theme = now;
  return now;
}

function header() {
  const { about } = state;
  const here = place().view || "ask";
  const links = VIEWS.map((name) =>
    h("a", { href: href({ view: name }, true), "aria-current": name === here ? "page" : null }, t(`nav.${name}`)),
  );
  const dark = document.documentElement.dataset.theme === "dark";
  const runs = about.runs.map((run) => h("option", { value: run.name, selected: run.name === about.run }, run.name));
  const chooser = h("select", { id: "run", "data-keep": "run", onchange: (event) => go({ run: event.target.value }) }, ...runs);
  fill(
    top,
    h("a", { class: "brand", href: "/", "aria-label": "emo" }, h("img", { src: "/static/icon.svg", alt: "" }), "emo"),
    h("nav", { "aria-label": t("nav.main") }, ...links),
    h(
      "div",
      { class: "tools" },
      runs.length ? h("label", {}, h("span", { class: "word" }, t("run")), chooser) : h("span", { class: "soft" }, t("run.none")),
      h("button", { type: "button", "data-keep": "theme", onclick: () => redraw(() => theme(dark ? "light" : "dark")) }, t(dark ? "theme.light" : "theme.dark")),
      h("button", { type: "button", "data-keep": "language", title: t("language.say"), onclick: () => redraw(() => setLanguage(lang() === "en" ? "zh" : "en")) }, t("language")),
      h("button", { type: "button", class: "wide-only", onclick: help }, t("keys"), h("kbd", {}, "?")),
    ),
  );
  if (runs.length) chooser.setAttribute("aria-label", t("run"));
}

/** What is random or tiny is said on every view. */
function tell() {
  const said = state.about.notes || [];
  if (!state.about.run) return fill(notes, h("p", {}, t("no-run")));
  if (!said.length) return fill(notes);
  const drawn = said.some((note) => /random|tiny/.test(note));
  const rest = h("ul", { lang: "en" }, ...said.map((note) => h("li", {}, note)));
  return fill(notes, h("details", {}, h("summary", {}, drawn ? h("strong", {}, t("random")) : t("notes"), " ", h("span", {}, state.about.run)), rest));
}

function redraw(change) {
  change();
  show();
}

/** What the server has now: of the run that the link names, else of the one that was shown, if it is there still. */
async function about(run) {
  const before = run || state.about?.run;
  try {
    return await get("about", { run: before });
  } catch (error) {
    if (run || !before || error.status !== 404) throw error;
    return get("about");
  }
}

let drawing = 0;
async function show() {
  const mine = ++drawing;
  const { view = "ask", run } = place();
  const held = document.activeElement?.dataset.keep;
  state.leave?.();
  state.leave = null;
  fill(main, h("p", { class: "soft" }, t("loading")));
  try {
    state.about = await about(run);
    header();
    tell();
    const name = VIEWS.includes(view) ? view : "ask";
    document.title = `${t(`nav.${name}`)} · emo`;
    const module = await import(`./view.${name}.js`);
    if (mine !== drawing) return;
    const holder = h("div", {});
    const left = await module.show(holder, { about: state.about, place: place() });
    if (mine !== drawing) return left?.();
    state.leave = left;
    fill(main, holder);
    if (held) document.querySelector(`[data-keep="${held}"]`)?.focus({ preventScroll: true });
    holder.dispatchEvent(new Event("shown"));
  } catch (error) {
    if (mine === drawing) fill(main, h("h1", {}, t("lost")), failure(error));
  }
}

function help() {
  const keys = [
    ["Space", "keys.play"], ["← →", "keys.step"], ["P", "keys.peak"], ["/", "keys.search"], ["J K", "keys.next"],
    ["1–9", "keys.label"], ["0", "keys.back"], ["?", "keys.help"],
  ];
  const rows = keys.map(([key, words]) => h("tr", {}, h("td", {}, h("kbd", {}, key)), h("td", {}, t(words))));
  const box = h("dialog", { "aria-label": t("keys.title") }, h("h2", {}, t("keys.title")), h("table", {}, h("tbody", {}, ...rows)));
  box.append(h("button", { type: "button", onclick: () => box.close() }, t("close")));
  box.addEventListener("close", () => box.remove());
  document.body.append(box);
  box.showModal();
}

document.addEventListener("click", follow);
document.addEventListener("keydown", (event) => {
  if (typing(event) || event.metaKey || event.ctrlKey || event.altKey) return;
  if (event.key === "?") help();
  if (event.key === "/") {
    const field = document.querySelector("input[type=search]");
    if (field) event.preventDefault();
    field?.focus();
  }
});
window.addEventListener("popstate", show);
window.addEventListener("place", show);
theme();
show();
