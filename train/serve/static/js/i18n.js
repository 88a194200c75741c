// Words of the page, one dictionary per language; of what the server says, kinds of failures and the sentences of served.js.
import { SERVED } from "./served.js";
import en from "./words.en.js";
import zh from "./words.zh.js";

const WORDS = { en, zh };
let language = localStorage.getItem("emo-language") || (navigator.language.startsWith("zh") ? "zh" : "en");
document.documentElement.lang = language;

/** The words under a key; {name} in them is replaced. */
export function t(key, values = {}) {
  return put(WORDS[language][key] ?? en[key] ?? key, values);
}

const put = (words, values) => words.replace(/\{(\w+)\}/g, (_, name) => values?.[name] ?? "");

/** A word of data in the page's language, with the word as it is where that is another one. */
function named(form, word) {
  const words = word ? WORDS[language][`${form}.${word}`] : null;
  return words && words !== word ? `${words} ${word}` : word ?? "";
}

export const emotion = (label) => named("label", label);
export const failed = (kind) => named("kind", kind);

/** A sentence of the server: its `words` in the page's language where it is known there, and the `lang` that they are in. */
export function served(sentence) {
  for (const [key, form] of SERVED) {
    const found = form.exec(sentence ?? "");
    const words = found && WORDS[language][`served.${key}`];
    if (words) return { lang: language, words: put(words, found.groups) };
  }
  return { lang: "en", words: sentence ?? "" };
}

/** Why a clip lacks something: the kind of failure, in the page's language where it is known there, and the sentence. */
export function why(text) {
  const [, kind, sentence] = /^([a-z]+(?:-[a-z]+)*): (.*)$/s.exec(text ?? "") || [];
  if (!kind || !WORDS[language][`kind.${kind}`]) return { ...served(text), kind: "" };
  return { kind: `${failed(kind)}${language === "zh" ? "：" : ": "}`, lang: "en", words: sentence };
}

export const lang = () => language;

export function setLanguage(next) {
  language = next;
  localStorage.setItem("emo-language", next);
  document.documentElement.lang = next;
}
