// Small helpers around the DOM: no framework, no HTML from strings.
import { served } from "./i18n.js";

/** Make an element: h("button", {class: "main", onclick: f}, "text", child). Null children are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && (typeof value !== "string" || name === "value")) element[name] = value; // a textarea has no attribute `value`
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** Put children in place of whatever an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter((each) => each !== null && each !== undefined && each !== false));
  return element;
}

/** A number for people: four digits of a share, fewer of seconds. */
export const share = (value) => (value === null || value === undefined ? "" : `${(100 * value).toFixed(1)}\u00a0%`);
export const seconds = (value) => (value === null || value === undefined ? "" : `${value.toFixed(2)}\u00a0s`);
export const count = (value) => value.toLocaleString("en");

/** Value of a colour of the style sheet. */
export const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

let hiding = 0;
/** Say something at the foot of the page for a moment. */
export function toast(text) {
  const box = document.getElementById("toast");
  box.textContent = text;
  box.classList.add("on");
  clearTimeout(hiding);
  hiding = setTimeout(() => box.classList.remove("on"), 2500);
}

/** A canvas as large as its box in device pixels; `draw(context, width, height)` works in CSS pixels. */
export function paint(canvas, width, height, draw) {
  const dense = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * dense));
  canvas.height = Math.max(1, Math.round(height * dense));
  const context = canvas.getContext("2d");
  context.setTransform(dense, 0, 0, dense, 0, 0);
  context.clearRect(0, 0, width, height);
  draw(context, width, height);
}

/** Say whether keys belong to a field that somebody types in. */
export const typing = (event) => event.target.closest("input, textarea, select, [contenteditable]") !== null;

/** An element with a sentence of the server, in the language that it is in; before it the kind of failure, if it has one. */
export const say = (tag, { lang, words, kind }, style = null) => h(tag, { class: style, lang: kind ? null : lang }, kind, kind ? h("span", { lang }, words) : words);

/** A name as children of an element: where it must be broken, that is between its parts and not inside a number. */
export const name = (text) => String(text ?? "").split(/([^_@./-]*[_@./-]+)/).filter(Boolean).flatMap((part, i) => (i ? [h("wbr"), part] : [part]));

/** A box that says what went wrong, and what to do about it. */
export function failure(error) {
  return h("div", { class: "error", role: "alert" }, say("div", served(error.message)), error.hint ? say("div", served(error.hint), "hint") : null);
}

/** Colours of labels, told apart by most people with a colour deficiency too (Okabe and Ito 2008, darkened). */
const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#56b4e9", "#7f3fbf", "#8c564b", "#6b7280", "#e0457b"];
export const labelColour = (label, labels) => (label ? PALETTE[Math.max(0, labels.indexOf(label)) % PALETTE.length] : "#9aa3b5");
