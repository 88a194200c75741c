// Waveform, action units and the peak frame on one time axis, which moves the player and is moved by it.
import { colour, h, paint } from "./dom.js";
import { t } from "./i18n.js";

const WAVE = 54;
const ROW = 24;
const NAMES = 52;
const MOST = 8; // action units that are drawn: those that move most

/**
 * Make a timeline.
 * @param {object} data as GET /api/clip/timeline has it
 * @param {(time: number) => void} seek called with the time that somebody points at
 */
export function timeline(data, seek) {
  const curves = data.curves;
  const length = duration(data);
  const units = curves ? strongest(curves.units) : [];
  const wave = data.media?.wave ?? [];
  const height = (wave.length ? WAVE : 0) + units.length * ROW + 18;
  const canvas = h("canvas", { height: String(height) });
  const box = h("div", {
    class: "timeline", role: "slider", tabindex: "0", "aria-label": t("timeline"), "aria-valuemin": "0",
    "aria-valuemax": length.toFixed(2), "aria-valuenow": "0",
  }, canvas);
  box.style.height = `${height}px`;
  let now = 0;

  const x = (time, width) => NAMES + ((width - NAMES - 8) * time) / Math.max(length, 1e-6);
  const at = (event) => {
    const inside = canvas.getBoundingClientRect();
    return Math.min(length, Math.max(0, ((event.clientX - inside.left - NAMES) / (inside.width - NAMES - 8)) * length));
  };
  let dragging = false;
  box.addEventListener("pointerdown", (event) => {
    dragging = true;
    box.setPointerCapture(event.pointerId);
    seek(at(event));
  });
  box.addEventListener("pointermove", (event) => dragging && seek(at(event)));
  box.addEventListener("pointerup", () => (dragging = false));
  box.addEventListener("pointercancel", () => (dragging = false));

  function draw() {
    const width = box.clientWidth;
    if (!width) return;
    const [soft, line, ink, peak, text] = ["soft", "line", "wave", "peak", "text"].map(colour);
    paint(canvas, width, height, (pen) => {
      pen.font = "11px system-ui";
      pen.textBaseline = "middle";
      let top = 0;
      if (wave.length) {
        pen.fillStyle = soft;
        pen.fillText(t("wave"), 6, WAVE / 2);
        pen.fillStyle = ink;
        const loudest = Math.max(0.05, ...wave);
        wave.forEach((level, i) => {
          const tall = Math.max(1, (level / loudest) * (WAVE - 8));
          pen.fillRect(x((length * i) / wave.length, width), WAVE / 2 - tall / 2, Math.max(1, (width - NAMES) / wave.length - 0.4), tall);
        });
        top = WAVE;
      }
      for (const [name, values] of units) {
        pen.strokeStyle = line;
        pen.lineWidth = 1;
        pen.strokeRect(NAMES, top + 0.5, width, 0);
        pen.fillStyle = soft;
        pen.fillText(name, 6, top + ROW / 2);
        pen.strokeStyle = ink;
        pen.lineWidth = 1.5;
        pen.beginPath();
        values.forEach((value, i) => {
          const time = curves.times_s ? curves.times_s[i] : (length * i) / values.length;
          pen.lineTo(x(time, width), top + ROW - 3 - (value / 5) * (ROW - 6));
        });
        pen.stroke();
        top += ROW;
      }
      pen.fillStyle = soft;
      const step = ticks(length);
      for (let time = 0; time <= length + 1e-9; time += step) pen.fillText(`${+time.toFixed(2)}`, Math.min(x(time, width), width - 22), height - 8);
      if (curves?.peak?.time_s !== null && curves?.peak?.time_s !== undefined) mark(pen, x(curves.peak.time_s, width), peak, true);
      mark(pen, x(now, width), text, false);
    });
  }

  function mark(pen, place, ink, dashed) {
    pen.strokeStyle = ink;
    pen.lineWidth = dashed ? 2 : 1.5;
    pen.setLineDash(dashed ? [4, 3] : []);
    pen.beginPath();
    pen.moveTo(place, 0);
    pen.lineTo(place, height - 16);
    pen.stroke();
    pen.setLineDash([]);
  }

  const watcher = new ResizeObserver(draw);
  watcher.observe(box);
  return {
    box,
    length,
    empty: !wave.length && !units.length,
    leave: () => watcher.disconnect(),
    show(time) {
      now = time;
      box.setAttribute("aria-valuenow", time.toFixed(2));
      box.setAttribute("aria-valuetext", `${time.toFixed(2)} s`);
      draw();
    },
  };
}

function duration(data) {
  const curves = data.curves?.times_s;
  const faces = data.faces?.times_s;
  const ends = [data.media?.duration_s, curves?.[curves.length - 1], faces?.[faces.length - 1]].filter((each) => each !== undefined && each !== null);
  return ends.length ? Math.max(...ends, 0.04) : 1;
}

/** The units with the largest values, in the order of their numbers. */
function strongest(units) {
  const names = Object.keys(units).sort((a, b) => Math.max(...units[b]) - Math.max(...units[a]));
  return names.slice(0, MOST).sort().map((name) => [name, units[name]]);
}

function ticks(length) {
  return [0.25, 0.5, 1, 2, 5, 10, 20, 60, 300].find((step) => length / step <= 8) ?? 600;
}
