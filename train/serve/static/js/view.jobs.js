// Work in the workspace, read only: runs with their state and log, and what the store holds.
import { get } from "./api.js";
import { count, failure, fill, h, name } from "./dom.js";
import { t } from "./i18n.js";

const STATES = ["finished", "running", "failed", "interrupted"];

const AGAIN_MS = 3000;

export async function show(holder) {
  const runs = h("section", { class: "card" });
  const log = h("section", { class: "card hidden", "aria-label": t("jobs.log") });
  const store = h("section", { class: "card" });
  fill(holder, h("div", { class: "two" }, runs, log, store));
  let shown = null;
  let timer = 0;

  async function look() {
    try {
      const found = await get("jobs");
      drawRuns(found.runs);
      drawStore(found);
      if (shown) await read(shown);
    } catch (error) {
      fill(runs, failure(error));
    }
    timer = setTimeout(look, AGAIN_MS);
  }

  function drawRuns(rows) {
    const lines = rows.map((row) =>
      h("tr", {}, h("td", {}, h("button", { type: "button", onclick: () => read(row.run) }, row.run)), h("td", { class: "wide-only" }, row.head || row.recipe || row.kind),
        h("td", {}, h("span", { class: row.status === "finished" ? "good" : row.stale ? "bad" : null }, STATES.includes(row.status) ? t(`state.${row.status}`) : row.status, row.stale ? ` (${t("jobs.stale")})` : ""), row.last ? h("div", { class: "soft" }, progress(row.last)) : null),
        h("td", { class: "soft wide-only" }, (row.started_at || "").slice(0, 19).replace("T", " "))),
    );
    const head = ["run", "jobs.what", "jobs.state", "jobs.started"].map((key, i) => h("th", { class: i % 2 ? "wide-only" : null }, t(key)));
    fill(runs, h("div", { class: "row between" }, h("h1", {}, t("nav.jobs")), h("span", { class: "soft" }, t("jobs.read-only"))), lines.length ? h("div", { class: "scroll" }, h("table", { class: "runs" }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...lines))) : h("p", { class: "soft" }, t("jobs.none")));
  }

  async function read(run) {
    const open = shown === run && !log.classList.contains("hidden");
    shown = run;
    const found = await get("jobs/log", { run });
    const text = found.lines.map((line) => JSON.stringify(line)).join("\n");
    log.classList.remove("hidden");
    fill(log, h("h2", {}, `${t("jobs.log")} · ${run}`), h("pre", { class: "log", tabindex: "0" }, text || t("jobs.no-log")));
    if (!open) log.scrollIntoView({ block: "nearest" });
  }

  function drawStore({ store: held, waiting }) {
    if (!held) return fill(store, h("h2", {}, t("jobs.store")), h("p", { class: "soft" }, t("jobs.no-store")));
    const rows = held.features.map((each) => h("tr", {}, h("td", {}, ...name(each.key)), h("td", { class: "number" }, count(each.ok)), h("td", { class: each.failed ? "number bad" : "number" }, count(each.failed)), h("td", { class: "number" }, size(each.size_bytes))));
    const head = [t("feature"), t("jobs.ok"), t("failure"), t("jobs.size")].map((words, i) => h("th", { class: i ? "number" : null }, words));
    return fill(store, h("h2", {}, t("jobs.store")), h("p", {}, t("jobs.held", { clips: count(held.clips), commits: count(held.commits), newest: (held.newest || "").slice(0, 19).replace("T", " ") })), h("p", {}, t("jobs.writers", { n: held.writers }), " ", t("jobs.waiting", { n: waiting })), h("div", { class: "scroll" }, h("table", { class: "tight names" }, h("thead", {}, h("tr", {}, ...head)), h("tbody", {}, ...rows))));
  }

  await look();
  return () => clearTimeout(timer);
}

/** A size as the commands write it: powers of ten. */
function size(bytes) {
  for (const [unit, power, digits] of [["GB", 9, 2], ["MB", 6, 2], ["kB", 3, 1]])
    if (+(bytes / 10 ** power).toFixed(digits) >= 1) return `${(bytes / 10 ** power).toFixed(digits)}\u00a0${unit}`;
  return `${bytes}\u00a0B`;
}
const progress = (line) => Object.entries(line).slice(0, 5).map(([name, value]) => `${name} ${typeof value === "number" ? +value.toPrecision(4) : value}`).join(", ");
