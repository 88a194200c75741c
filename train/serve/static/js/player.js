// The player: video or sound, with the face that counts drawn over it.
import { link } from "./api.js";
import { colour, fill, h, paint } from "./dom.js";
import { t } from "./i18n.js";

/**
 * Make a player.
 * @param {object} clip as GET /api/clip has it, or {plays, media} of a file that was just sent
 * @param {string|null} blob address of that file
 * @param {(time: number) => void} moved called whenever the time changes
 */
export function player(clip, blob, moved) {
  const box = h("div", { class: "player" });
  const overlay = h("canvas", { "aria-hidden": "true" });
  const made = { box, media: null, faces: null, shown: true, fps: 25, seek, toggle, step, draw, time: () => made.media?.currentTime ?? 0 };
  const source = blob || (clip.media ? link("clip/media", { id: clip.id }) : null);
  let wanted = null;
  if (!source) {
    fill(box, h("p", { class: "gone" }, t("player.gone")));
    return made;
  }
  const media = h("video", { src: source, controls: true, playsinline: true, preload: "auto", tabindex: "0" });
  made.media = media;
  fill(box, media, overlay);
  media.addEventListener("error", () => {
    made.media = null;
    fill(box, h("p", { class: "gone" }, t("player.format"), " ", h("a", { href: source, download: "" }, t("player.open"))));
  });
  media.addEventListener("loadedmetadata", () => {
    if (!media.videoWidth) box.classList.add("sound");
    if (wanted !== null) media.currentTime = wanted;
    draw();
  });
  for (const name of ["seeked", "timeupdate", "pause"]) media.addEventListener(name, tick);
  media.addEventListener("play", loop);
  const watcher = new ResizeObserver(draw);
  watcher.observe(box);
  made.leave = () => {
    watcher.disconnect();
    media.pause();
    media.removeAttribute("src");
    media.load();
  };

  function tick() {
    draw();
    moved(media.currentTime);
  }

  function loop() {
    tick();
    if (!media.paused && !media.ended) requestAnimationFrame(loop);
  }

  function seek(time) {
    wanted = Math.max(0, time);
    if (made.media && media.readyState >= 1) media.currentTime = Math.min(wanted, media.duration || wanted);
    else moved(wanted);
  }

  function toggle() {
    if (!made.media) return;
    if (media.paused) media.play().catch(() => {});
    else media.pause();
  }

  function step(frames) {
    seek(made.time() + frames / made.fps);
  }

  /** Draw box and landmarks of the frame that is shown, or of the nearest within a tenth of a second. */
  function draw() {
    const { faces } = made;
    const [wide, high] = [box.clientWidth, box.clientHeight];
    if (!wide || !made.media?.videoWidth) return; // a clip without media has no frame to draw on
    paint(overlay, wide, high, (pen) => {
      if (!faces || !made.shown) return;
      const at = nearest(faces.times_s, media.currentTime + 1e-3);
      if (at < 0 || Math.abs(faces.times_s[at] - media.currentTime) > 0.1) return;
      const scale = Math.min(wide / media.videoWidth, high / media.videoHeight);
      const [left, top] = [(wide - scale * media.videoWidth) / 2, (high - scale * media.videoHeight) / 2];
      const [x0, y0, x1, y1] = faces.boxes[at];
      pen.lineWidth = 2;
      pen.strokeStyle = "#ffd24a";
      pen.strokeRect(left + scale * x0, top + scale * y0, scale * (x1 - x0), scale * (y1 - y0));
      pen.fillStyle = "#40e0d0";
      for (const [x, y] of faces.landmarks[at]) {
        pen.beginPath();
        pen.arc(left + scale * x, top + scale * y, 2.6, 0, 7);
        pen.fill();
      }
      pen.font = "12px system-ui";
      pen.fillStyle = "#ffd24a";
      pen.fillText(faces.scores[at].toFixed(2), left + scale * x0 + 3, Math.max(12, top + scale * y0 - 4));
    });
  }
  return made;
}

/** Place of the last time that is not after `time`, in times that rise. */
export function nearest(times, time) {
  let [low, high] = [0, times.length - 1];
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (times[middle] <= time) low = middle;
    else high = middle - 1;
  }
  return times.length ? low : -1;
}

export const accent = () => colour("accent");
