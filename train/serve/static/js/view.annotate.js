// Label clips by keyboard, several people at once, with their agreement; and edit MERR records. Each action is a commit.
import { get, post } from "./api.js";
import { count, failure, fill, h, name as broken, toast, typing } from "./dom.js";
import { emotion, t } from "./i18n.js";
import { go } from "./place.js";
import { player } from "./player.js";

const NAME = /^[\w.-]{1,40}$/;

export async function show(holder, { about, place }) {
  const who = localStorage.getItem("emo-annotator") || "";
  const state = { about, who, leaves: [] };
  const [known, page] = await Promise.all([get("labels"), clips(place)]);
  state.labels = known.labels;
  const at = page.clips.findIndex((clip) => clip.id === place.clip);
  const clip = at >= 0 ? page.clips[at] : place.clip ? await get("clip", { id: place.clip, run: about.run }) : page.clips.find((each) => each.media) || page.clips[0];
  const agreed = h("section", { class: "card", "aria-live": "polite" });
  showAgreement(agreed, known.agreement, known.annotators);
  const left = h("div", {});
  const right = h("div", {}, name(state), agreed);
  fill(holder, h("div", { class: "ask" }, left, right));
  if (!clip) {
    fill(left, h("p", { class: "soft" }, t("clips.nothing")));
    return;
  }
  const detail = await get("clip", { id: clip.id, run: about.run });
  const screen = player(detail, null, () => {});
  if (screen.leave) state.leaves.push(screen.leave);
  const keys = h("div", { class: "keys", role: "group", "aria-label": t("annotate.labels") });
  const others = h("p", { class: "soft" });
  const mark = (labels) => {
    const mine = labels[state.who] ?? null;
    fill(keys, ...state.labels.map((label, i) =>
      h("button", { type: "button", "aria-pressed": String(label === mine), "data-label": label, onclick: () => give(label) }, h("kbd", {}, String(i + 1)), emotion(label)),
    ), h("button", { type: "button", disabled: mine === null, onclick: () => give(null) }, h("kbd", {}, "0"), t("annotate.back")));
    const seen = Object.entries(labels).filter(([person]) => person !== state.who);
    others.textContent = place.blind === "true" || !seen.length ? "" : seen.map(([person, label]) => `${person}: ${emotion(label)}`).join(" · ");
  };
  async function give(label) {
    if (!state.who) return toast(t("annotate.who-first"));
    try {
      const found = await post("labels", { clip: clip.id, annotator: state.who, label });
      mark(found.labels);
      showAgreement(agreed, found.agreement, found.annotators);
      toast(label === null ? t("annotate.taken") : t("annotate.saved", { label: emotion(label) }));
    } catch (error) {
      fill(others, failure(error));
    }
  }
  const step = (by) => {
    const next = page.clips[at < 0 ? page.clips.findIndex((each) => each.id === clip.id) + by : at + by];
    if (next) go({ clip: next.id });
    else if (by > 0 && page.offset + page.clips.length < page.total) go({ clip: null, offset: page.offset + page.clips.length });
    else if (by < 0 && page.offset > 0) go({ clip: null, offset: Math.max(0, page.offset - 50) });
  };
  mark(detail.labels);
  const number = page.offset + page.clips.findIndex((each) => each.id === clip.id) + 1;
  const text = Object.values(detail.transcripts)[0];
  const moves = h("div", { class: "row" }, h("button", { type: "button", onclick: () => step(-1) }, h("kbd", {}, "K"), t("annotate.before")), h("button", { type: "button", onclick: () => step(1) }, h("kbd", {}, "J"), t("annotate.next")));
  const title = h("div", { class: "row between" }, h("h1", {}, ...broken(clip.id)), h("span", { class: "soft" }, number > 0 ? t("annotate.at", { at: count(number), total: count(page.total) }) : ""));
  fill(left, h("section", { class: "card" }, title, screen.box, text ? h("p", { class: "said" }, text) : null, keys, others, h("div", { class: "row between" }, moves, only(place))));
  right.append(record(state, clip.id));

  const pressed = (event) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const digit = Number(event.key);
    if (event.key >= "1" && event.key <= "9" && state.labels[digit - 1]) give(state.labels[digit - 1]);
    else if (event.key === "0") give(null);
    else if (event.key.toLowerCase() === "j") step(1);
    else if (event.key.toLowerCase() === "k") step(-1);
    else if (event.key === " " && !event.target.closest("button, video, a, summary")) screen.toggle();
    else return;
    event.preventDefault();
  };
  document.addEventListener("keydown", pressed);
  state.leaves.push(() => document.removeEventListener("keydown", pressed));
  return () => state.leaves.forEach((leave) => leave());
}

async function clips(place) {
  const offset = Number(place.offset) || 0;
  const found = await get("clips", { offset, limit: 50, annotated: place.annotated, selection: place.selection, split: place.split, run: place.run });
  return { ...found, offset };
}

function only(place) {
  const box = h("input", { type: "checkbox", "data-keep": "annotated", checked: place.annotated === "false", onchange: () => go({ annotated: box.checked ? "false" : null, clip: null, offset: null }) });
  const blind = h("input", { type: "checkbox", "data-keep": "blind", checked: place.blind === "true", onchange: () => go({ blind: blind.checked ? "true" : null }) });
  return h("div", { class: "row" }, h("label", {}, box, " ", t("annotate.new")), h("label", {}, blind, " ", t("annotate.blind")));
}

function name(state) {
  const field = h("input", { type: "text", value: state.who, maxlength: "40", pattern: "[\\w.\\-]{1,40}", autocomplete: "off", onchange: () => {
    if (!NAME.test(field.value)) return toast(t("annotate.name-rule"));
    localStorage.setItem("emo-annotator", field.value);
    go({});
  } });
  return h("section", { class: "card" }, h("label", { class: "row" }, t("annotate.who"), field), h("p", { class: "soft" }, t("annotate.help")));
}

function showAgreement(card, agreement, people) {
  const rows = agreement.map((each) =>
    h("tr", {}, h("td", {}, `${each.first} – ${each.second}`), h("td", { class: "number" }, each.kappa === null ? "–" : each.kappa.toFixed(3)), h("td", { class: "number" }, each.agreement === null ? "–" : `${(100 * each.agreement).toFixed(0)} %`), h("td", { class: "number" }, count(each.clips))),
  );
  const head = ["annotate.pair", "annotate.kappa", "annotate.same", "clips.title"].map((key, i) => h("th", { class: i ? "number" : null }, t(key)));
  const table = h("table", {}, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows));
  const done = Object.entries(people).map(([person, each]) => h("span", { class: "tag" }, `${person} ${count(each.clips)}`));
  fill(card, h("h2", {}, t("annotate.agreement")), done.length ? h("div", { class: "row" }, ...done) : null, rows.length ? table : h("p", { class: "soft" }, t("annotate.two")));
}

/** Fields of the MERR record of a clip; lists are written with commas between their words. */
function record(state, id) {
  const body = h("div", { class: "fields" });
  const card = h("details", { class: "card" }, h("summary", {}, t("record.title")), body);
  card.addEventListener("toggle", () => card.open && load());
  async function load() {
    if (!state.who) return fill(body, h("p", { class: "soft" }, t("annotate.who-first")));
    const found = await get("record", { id, annotator: state.who });
    const lists = new Set(found.fields.filter((name) => /list$/.test(name) && name !== "audio_prior_list"));
    const areas = found.fields.map((name) => {
      const value = found.record[name];
      return [name, h("textarea", { rows: "1", name, value: Array.isArray(value) ? value.join(", ") : value ?? "" })];
    });
    const said = h("p", { "aria-live": "polite" });
    const save = h("button", { type: "button", class: "main", onclick: async () => {
      const values = areas.map(([name, area]) => [name, lists.has(name) ? area.value.split(",").map((each) => each.trim()).filter(Boolean) : area.value]);
      try {
        const kept = await post("record", { clip: id, annotator: state.who, fields: Object.fromEntries(values) });
        fill(said, h("span", { class: "good" }, t("record.saved", { n: kept.history.length })));
      } catch (error) {
        fill(said, failure(error));
      }
    } }, t("record.save"));
    const versions = found.history.length ? h("p", { class: "soft" }, t("record.history", { n: found.history.length })) : null;
    fill(body, ...areas.map(([name, area]) => h("label", {}, lists.has(name) ? `${name} ${t("record.list")}` : name, area)), h("div", { class: "row" }, save), said, versions);
  }
  return card;
}
