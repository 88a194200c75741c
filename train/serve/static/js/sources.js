// Where a clip comes from: a file, the webcam, or the workspace.
import { get } from "./api.js";
import { fill, h, name, say, toast } from "./dom.js";
import { emotion, served, t } from "./i18n.js";
import { go, href } from "./place.js";

const RECORD_S = 30;

/**
 * Make the chooser.
 * @param {object} about as GET /api/about has it
 * @param {(file: File) => void} chosen called with a file to ask about
 */
export function sources(about, chosen) {
  const field = h("input", { type: "file", accept: "video/*,audio/*", class: "only", id: "file", onchange: () => field.files[0] && chosen(field.files[0]) });
  const drop = h("div", { class: "drop" }, h("span", {}, t("ask.drop")));
  const buttons = h("div", { class: "row" }, field, h("label", { class: "button", for: "file" }, t("ask.upload")));
  const stage = h("div", {});
  buttons.append(h("button", { type: "button", onclick: () => camera(stage, chosen) }, t("ask.camera")));
  const limits = { mib: Math.round(about.limits.upload_bytes / 2 ** 20), seconds: about.limits.seconds };
  drop.append(buttons, stage, h("span", { class: "soft" }, t("ask.limits", limits)));
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) chosen(event.dataTransfer.files[0]);
  });
  return h("section", { class: "card", "aria-label": t("ask.title") }, h("h1", {}, t("ask.title")), drop, picker());
}

async function camera(stage, chosen) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: 640, height: 480 }, audio: true });
  } catch (error) {
    toast(t("ask.no-camera", { why: error.message || error.name }));
    return;
  }
  const mirror = h("video", { autoplay: true, muted: true, playsinline: true, width: 320 });
  mirror.srcObject = stream;
  const kind = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"].find((each) => MediaRecorder.isTypeSupported(each));
  const recorder = new MediaRecorder(stream, kind ? { mimeType: kind } : {});
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.onstop = () => {
    stream.getTracks().forEach((track) => track.stop());
    fill(stage);
    const type = recorder.mimeType.split(";")[0];
    chosen(new File(parts, `webcam.${type.includes("mp4") ? "mp4" : "webm"}`, { type }));
  };
  const button = h("button", { type: "button", class: "main" }, t("ask.record"));
  button.addEventListener("click", () => {
    if (recorder.state === "recording") return recorder.stop();
    recorder.start();
    button.textContent = t("ask.stop");
    setTimeout(() => recorder.state === "recording" && recorder.stop(), 1000 * RECORD_S);
  });
  fill(stage, mirror, h("div", {}, button));
}

/** A field that finds clips of the workspace by name or words. */
function picker() {
  const found = h("datalist", { id: "clips-found" });
  const list = h("div", { class: "near", role: "list" });
  let asking = null;
  const field = h("input", { type: "search", list: "clips-found", placeholder: t("clips.search"), "aria-label": t("ask.pick"), oninput: look });
  async function look() {
    asking?.abort();
    asking = new AbortController();
    try {
      const { clips } = await get("clips", { q: field.value, limit: 8, missing: field.value ? null : false }, asking.signal);
      fill(list, ...clips.map((clip) =>
        h("a", { href: href({ clip: clip.id, t: null }), role: "listitem" }, h("strong", {}, ...name(clip.id)), h("span", { class: "soft" }, emotion(clip.label))),
      ));
    } catch (error) {
      if (error.name !== "AbortError") fill(list, say("span", served(error.message), "bad"));
    }
  }
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && list.firstChild) go({ clip: list.querySelector("strong").textContent, t: null });
  });
  look();
  return h("div", { class: "pick" }, h("h2", {}, t("ask.pick")), field, found, list);
}
