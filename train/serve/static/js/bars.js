// Probabilities as bars over the label set; a second set is drawn into the same bars.
import { h, share } from "./dom.js";
import { emotion } from "./i18n.js";

export function bars(probabilities, labels, second = null) {
  const names = labels.length ? labels.filter((each) => each in probabilities) : Object.keys(probabilities);
  const best = names.reduce((a, b) => (probabilities[b] > probabilities[a] ? b : a), names[0]);
  const rows = names.flatMap((name) => {
    const filled = h("div", { class: "fill" });
    filled.style.width = `${100 * probabilities[name]}%`;
    const track = h("div", { class: "track" }, filled);
    let said = share(probabilities[name]);
    if (second) {
      const other = h("div", { class: "fill second" });
      other.style.width = `${100 * (second[name] ?? 0)}%`;
      track.append(other);
      said += ` → ${share(second[name] ?? 0)}`;
    }
    const bold = name === best ? " best" : "";
    return [h("span", { class: `name${bold}` }, emotion(name)), track, h("span", { class: `share${bold}` }, said)];
  });
  return h("div", { class: "bars" }, ...rows);
}
