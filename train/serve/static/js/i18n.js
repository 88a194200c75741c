// Words of the page, one dictionary per language; what the server says stays in English but for a few frequent sentences.
import en from "./words.en.js";
import zh from "./words.zh.js";

const WORDS = { en, zh };
let language = localStorage.getItem("emo-language") || (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = language;

/** The words under a key; {name} in them is replaced. */
export function t(key, values = {}) {
  const words = WORDS[language][key] ?? en[key] ?? key;
  return words.replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "");
}

/** An emotion in the page's language, with the label as it is where that is another word. */
export function emotion(label) {
  const words = label ? WORDS[language][`label.${label}`] : null;
  return words && words !== label ? `${words} ${label}` : label ?? "";
}

const SERVED = [
  [/^(\d+) clips are too few for a score: /, "served.few"],
  [/^Two principal components, which hold (\d+) % /, "served.pca"],
  [/^UMAP .*, seed (\d+): /, "served.umap"],
];

/** A sentence of the server: its `words` in the page's language where it is known there, and the `lang` that they are in. */
export function served(sentence) {
  const known = SERVED.map(([form, key]) => [form.exec(sentence ?? ""), WORDS[language][key]]).find(([found, words]) => found && words);
  return known ? { lang: language, words: known[1].replace("{n}", known[0][1]) } : { lang: "en", words: sentence ?? "" };
}

export const lang = () => language;

export function setLanguage(next) {
  language = next;
  localStorage.setItem("emo-language", next);
  document.documentElement.lang = next;
}
