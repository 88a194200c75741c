// Ask: a clip, what the run says about it, and why.
import { ask, cancel, get, post, watch } from "./api.js";
import { bars } from "./bars.js";
import { failure, fill, h, name, say, toast, typing } from "./dom.js";
import { emotion, served, t, why } from "./i18n.js";
import { missing, neighbours } from "./evidence.js";
import { go } from "./place.js";
import { player } from "./player.js";
import { sources } from "./sources.js";
import { timeline } from "./timeline.js";

const SENT = new Map(); // clip -> address of the file that was sent in this visit

export async function show(holder, { about, place }) {
  const left = h("div", {});
  const right = h("div", {});
  const stage = { about, place, leaves: [], ticket: null, transcript: null, task: "emotion" };
  const grid = h("div", { class: place.clip ? "ask" : "ask start" }, left, right);
  fill(holder, grid);
  const answer = h("div", { class: "card hidden", "aria-live": "polite" });
  fill(right, answer);
  const chooser = sources(about, (file) => question(stage, { left, answer, right, grid }, { file }));
  if (place.clip) {
    await open(stage, { left, answer, right, grid }, place.clip, Number(place.t) || 0);
    right.append(chooser);
    if (about.run) question(stage, { left, answer, right, grid }, { clip: place.clip });
  } else left.append(chooser);
  return () => {
    stage.leaves.forEach((leave) => leave());
    if (stage.ticket) cancel(stage.ticket);
  };
}

/** Draw player, timeline and transcript of a clip. */
async function open(stage, boxes, id, time, address = null) {
  const clip = await get("clip", { id, run: stage.about.run });
  const card = h("section", { class: "card", "aria-label": t("clip") });
  const blob = address || SENT.get(id) || null;
  let line = null;
  const shown = player(clip, blob, (now) => {
    line?.show(now);
    later(stage, now);
  });
  if (time) shown.seek(time);
  stage.player = shown;
  stage.clip = clip;
  if (shown.leave) stage.leaves.push(shown.leave);
  const copy = h("button", { type: "button", onclick: () => copyLink() }, t("link"));
  const facts = [clip.dataset, clip.split, clip.speaker].filter(Boolean).map((each) => h("span", { class: "tag" }, each));
  if (clip.label) facts.unshift(h("span", { class: "tag" }, `${t("label")}: ${emotion(clip.label)}`));
  const strip = h("div", { class: "soft" }, t("loading"));
  fill(card, h("div", { class: "row between" }, h("h1", {}, ...name(id)), h("div", { class: "row" }, ...facts, copy)), shown.box, strip, words(stage, boxes, clip));
  fill(boxes.left, card);
  keys(stage, () => line);
  drawLine().catch((error) => fill(strip, failure(error)));

  async function drawLine() {
    const data = await get("clip/timeline", { id });
    line?.leave();
    line = timeline(data, shown.seek);
    stage.leaves.push(line.leave);
    shown.faces = data.faces;
    shown.fps = data.media?.fps || 25;
    shown.draw();
    const peak = data.curves?.peak;
    stage.peak = peak?.time_s ?? null;
    const below = h("div", { class: "row soft" });
    if (peak) below.append(h("button", { type: "button", onclick: () => shown.seek(peak.time_s ?? 0) }, `${t("peak")} ${peak.index}`), h("span", {}, peak.active.join(" ")));
    if (data.faces) {
      const box = h("input", { type: "checkbox", checked: true, onchange: () => ((shown.shown = box.checked), shown.draw()) });
      below.append(h("label", {}, box, " ", t("overlay")));
      if (data.faces.people > 1) below.append(h("span", {}, t("faces.people", { n: data.faces.people })));
    }
    if (data.curves) below.append(h("span", { lang: "en" }, `${t("units.from", { source: data.curves.source })}. ${data.curves.note}`));
    else if (clip.media) below.append(h("button", { type: "button", onclick: (event) => units(event.target, below) }, t("units.make")));
    for (const reason of Object.values(data.why)) if (!(reason.includes("action units") && clip.media)) below.append(say("span", served(reason)));
    strip.className = "";
    fill(strip, line.empty ? h("p", { class: "soft" }, t("timeline.none")) : line.box, h("p", { class: "soft wide-only" }, t("timeline.help")), below);
    line.show(shown.time());
  }

  async function units(button, below) {
    button.disabled = true;
    const list = h("ol", { class: "stages" });
    below.append(list);
    try {
      const ticket = await post("clip/units", {}, { id });
      await watch(ticket, (state) => fill(list, ...steps(state)));
      await drawLine();
    } catch (error) {
      fill(below, failure(error));
    }
  }
}

/** The transcript, and a field to type another one for runs that read words. */
function words(stage, boxes, clip) {
  const said = Object.entries(clip.transcripts).map(([name, text]) =>
    h("p", { class: "said", lang: name === "chinese" ? "zh" : name === "english" ? "en" : null }, text),
  );
  for (const { by, text, language } of clip.heard)
    said.push(h("p", { class: "said", lang: language || null }, text || "–", " ", h("span", { class: "tag" }, t("said.heard", { by }))));
  const box = h("div", {}, h("h2", {}, t("said")), ...(said.length ? said : [h("p", { class: "soft" }, t("said.none"))]));
  if ((stage.about.policies || []).length > 1) {
    const field = h("input", { type: "text", "aria-label": t("said.type"), placeholder: t("said.type"), maxlength: "4000" });
    const form = h("form", { class: "row", onsubmit: (event) => {
      event.preventDefault();
      stage.transcript = field.value.trim() || null;
      question(stage, boxes, { clip: clip.id });
    } }, field, h("button", {}, t("ask.again")));
    box.append(form);
  }
  return box;
}

const steps = (state) =>
  state.stages.map((each, i) => {
    const of = each.total ? ` · ${t("stage.of", each)}` : "";
    const now = i === state.stages.length - 1 && state.state === "running" ? "now" : null;
    return h("li", { class: now }, h("span", {}, t(`stage.${each.stage}`), of), h("span", { class: "soft" }, each.text));
  });

/** Ask, show place in line and stages, then the answer. */
async function question(stage, boxes, asked) {
  const { answer } = boxes;
  if (stage.ticket) cancel(stage.ticket);
  const list = h("ol", { class: "stages" });
  const heading = h("h2", {}, t("ask.working"));
  const streamed = h("p", { class: "reason" });
  const stop = h("button", { type: "button", onclick: () => stage.ticket && cancel(stage.ticket) }, t("ask.cancel"));
  answer.classList.remove("hidden");
  fill(answer, h("div", { class: "row between" }, heading, stop), h("progress", { "aria-label": t("ask.working") }), list, streamed);
  const given = { ...asked, run: stage.about.run, task: stage.task, transcript: stage.transcript };
  const mine = (stage.asking = {});
  const tell = (state) => {
    heading.textContent = state.state === "waiting" ? t("ask.place", { place: state.place }) : t("ask.working");
    fill(list, ...steps(state));
    streamed.textContent = state.text;
  };
  try {
    stage.ticket = await ask(given);
    const value = await watch(stage.ticket, tell);
    let likely = null;
    const id = value.answers[0].name;
    if (stage.task === "emotion" && (stage.about.policies || []).includes("likelihood")) {
      stage.ticket = await ask({ ...given, file: null, clip: id, answers: "likelihood" });
      likely = await watch(stage.ticket, () => {});
    }
    stage.ticket = null;
    if (stage.asking !== mine) return;
    if (asked.file) {
      SENT.set(id, URL.createObjectURL(asked.file));
      go({ view: "ask", clip: id, t: null }, { quiet: true });
      const chooser = boxes.left.firstChild;
      stage.leaves.splice(0).forEach((leave) => leave());
      boxes.grid.classList.remove("start");
      await open(stage, boxes, id, 0);
      if (chooser) boxes.right.append(chooser);
    }
    result(stage, boxes, value, likely);
  } catch (error) {
    stage.ticket = null;
    if (stage.asking === mine) fill(answer, error.message === "cancelled" ? h("p", {}, t("ask.cancelled")) : failure(error));
  }
}

function result(stage, boxes, value, likely) {
  const { answer, right } = boxes;
  const { about } = stage;
  const row = value.answers[0];
  const odds = row.probabilities || likely?.answers[0]?.probabilities || null;
  const title = stage.task === "emotion" ? h("div", { class: "answer" }, emotion(row.answer) || t("answer.none")) : h("p", { class: "reason" }, row.answer || t("answer.none"));
  const parts = [h("div", { class: "row between" }, h("h2", {}, t(stage.task === "reason" ? "answer.reason" : "answer")), h("span", { class: "tag cut", title: value.run }, value.run)), title];
  if (row.why) parts.push(say("p", why(row.why), "bad"));
  if (row.valence !== undefined) parts.push(h("p", {}, `${t("answer.valence")}: ${row.valence.toFixed(3)}`));
  const chart = h("div", {});
  if (odds) parts.push(h("h2", {}, t(likely ? "answer.likelihood" : "answer.probabilities")), fill(chart, bars(odds, about.labels)) && chart);
  else if (row.answer) parts.push(h("p", { class: "soft" }, t("answer.no-probabilities")));
  if ((about.tasks || []).length > 1) parts.push(tasks(stage, boxes, row.name));
  if (row.answer && (about.modalities || []).length) parts.push(...switches(stage, row.name, chart, odds));
  const { clip } = stage;
  if (clip?.seen) parts.push(h("p", { class: "warning" }, t("answer.seen", { name: clip.seen })));
  if (clip?.twins?.length) parts.push(h("p", { class: "warning" }, t("twins", { names: clip.twins.join(", ") })));
  parts.push(h("details", {}, h("summary", {}, t("notes")), h("ul", { lang: "en" }, ...value.notes.map((note) => h("li", {}, note)))));
  fill(answer, ...parts);
  right.querySelectorAll(".evidence").forEach((each) => each.remove());
  answer.after(neighbours(row.name, about.run), missing(stage.clip));
}

function tasks(stage, boxes, id) {
  const pick = (task) => () => {
    stage.task = task;
    question(stage, boxes, { clip: id });
  };
  const buttons = stage.about.tasks.map((task) =>
    h("button", { type: "button", "aria-pressed": String(task === stage.task), onclick: pick(task) }, t(`task.${task}`)),
  );
  return h("div", { class: "row", role: "group", "aria-label": t("task") }, ...buttons);
}

/** Switches of the parts of a clip; each change asks again and draws both answers. */
function switches(stage, id, chart, odds) {
  const off = new Set();
  const said = h("p", { "aria-live": "polite" });
  const names = stage.about.modalities;
  const buttons = names.map((name) => {
    const button = h("button", { type: "button", role: "switch", "aria-checked": "true", "data-part": name, onclick: () => flip(name, button) }, t(`mod.${name}`));
    return button;
  });
  async function flip(name, button) {
    if (off.has(name)) off.delete(name);
    else off.add(name);
    button.setAttribute("aria-checked", String(!off.has(name)));
    if (!off.size) {
      if (odds) fill(chart, bars(odds, stage.about.labels));
      fill(said);
      return;
    }
    said.textContent = t("ask.working");
    try {
      const given = { clip: id, off: [...off], run: stage.about.run, task: "emotion", transcript: stage.transcript };
      const found = await post("without", given);
      if (found.off.join() !== [...off].sort().join()) return;
      const [a, b] = [found.all?.answer, found.without?.answer];
      const gone = t("switches.without", { off: [...off].map((each) => t(`mod.${each}`)).join(", ") });
      const outcome = a === b ? t("switches.same", { a: emotion(a) }) : t("switches.changed", { a: emotion(a), b: emotion(b) });
      fill(said, h("strong", {}, `${gone}: ${outcome}`), " ", say("span", served(found.note), "soft"));
      if (found.all?.probabilities) fill(chart, bars(found.all.probabilities, stage.about.labels, found.without?.probabilities));
    } catch (error) {
      fill(said, failure(error));
    }
  }
  return [h("h2", {}, t("switches")), h("div", { class: "switches", role: "group", "aria-label": t("switches") }, ...buttons), h("p", { class: "soft" }, t("switches.help")), said];
}

let linking = 0;
/** Keep the time in the link, not more often than is polite. */
function later(stage, now) {
  clearTimeout(linking);
  linking = setTimeout(() => stage.clip && go({ clip: stage.clip.id, t: now ? now.toFixed(2) : null }, { quiet: true }), 400);
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    toast(t("link.copied"));
  } catch {
    toast(location.href);
  }
}

function keys(stage, line) {
  const pressed = (event) => {
    if (typing(event) || event.ctrlKey || event.metaKey || event.altKey) return;
    const shown = stage.player;
    const held = event.target.closest("video, button, a, summary");
    if (event.key === " " && !held) shown.toggle();
    else if (event.key === "ArrowLeft" && !event.target.closest("video")) shown.step(event.shiftKey ? -shown.fps / 2 : -1);
    else if (event.key === "ArrowRight" && !event.target.closest("video")) shown.step(event.shiftKey ? shown.fps / 2 : 1);
    else if (event.key.toLowerCase() === "p" && stage.peak !== null && stage.peak !== undefined) shown.seek(stage.peak);
    else return;
    event.preventDefault();
    line()?.show(shown.time());
  };
  document.addEventListener("keydown", pressed);
  stage.leaves.push(() => document.removeEventListener("keydown", pressed));
}
