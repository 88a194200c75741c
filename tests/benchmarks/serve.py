"""The page under load: users who browse 100,000 clips, the first paint there, and several uploads at once.

python tests/benchmarks/serve.py
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
from record import PAGE, record, typed

from emo.extract.demo import EMOTIONS, generate_clip, generate_workspace
from emo.featstore.clip import FileId
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.store import Store, open_store
from emo.featstore.workspace import load_workspace
from emo.train.recipe import load_recipe
from emo.train.session import train

TITLE = "P12 The page under load"
DIM = 32
TOML = '[store]\npath = "s.emo"\n[data.many]\nroot = "data"\nkind = "folder"\n'
THINK_S = (0.5, 1.5)  # a user reads for so long before the next click


def write_many(folder: Path, clips: int) -> None:
    """Write a workspace of so many clips without media: labels, transcripts, one feature, and a head's answers."""
    rng = np.random.default_rng(0)
    names = [f"c{i:06d}" for i in range(clips)]
    truth = rng.integers(0, len(EMOTIONS), clips)
    rows = rng.normal(size=(clips, DIM)).astype(np.float32)
    rows[np.arange(clips), truth] += 1.5
    (folder / "data").mkdir(parents=True)
    (folder / "emo.toml").write_text(TOML)
    for name, header, column in (
        ("labels.csv", ("name", "emotion", "split"), lambda i: (EMOTIONS[truth[i]], "test" if i % 50 else "train")),
        ("transcripts.csv", ("name", "english"), lambda i: (f"Words number {i % 977} are said here.",)),
    ):
        with open(folder / "data" / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *((names[i], *column(i)) for i in range(clips))])
    spec = EncoderSpec("HL-UTT", "hubert", "audio", "utt", DIM, 1, "tiny", "seed:0")
    Store.create(folder / "s.emo")
    with open_store(folder / "s.emo").writer(commit_every=20_000) as writer:
        for i, name in enumerate(names):
            media = f"{i:032x}"
            writer.clip(name, FileId(media, 1, 1))
            writer.add(spec, media, rows[i : i + 1])
    recipe = load_recipe("logistic", ["features=[HL-UTT]", "train_splits=[train]"])
    train(load_workspace(folder), recipe, run="head")


class Server:
    """`emo serve` as a process of its own."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "emo.cli", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", self.process.stderr.readline())
        assert found, self.process.stderr.read()
        self.port = int(found[1])

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.wait(30)

    def processor_s(self) -> float:
        """Seconds of a processor that the server has used so far, without processes that it has started."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def peak_mib(self) -> float:
        """Largest resident memory so far of the server and of the processes that it has started, added up."""
        pids, found = [self.process.pid], 0.0
        while pids:
            pid = pids.pop()
            try:
                status = Path(f"/proc/{pid}/status").read_text()
                for task in Path(f"/proc/{pid}/task").iterdir():  # children are listed under the thread that made them
                    pids += map(int, (task / "children").read_text().split())
            except OSError:
                continue
            peak = re.search(r"VmHWM:\s+(\d+)", status)
            found += int(peak[1]) / 1024 if peak else 0.0
        return found


def click(rng: random.Random, clips: int) -> tuple[str, dict[str, object]]:
    """Draw what a user looks at next, as the page asks for it."""
    kind = rng.random()
    clip = f"c{rng.randrange(clips):06d}"
    if kind < 0.55:
        query: dict[str, object] = {"limit": 50, "offset": 50 * rng.randrange(20)}
        query |= {"label": rng.choice(EMOTIONS)} if rng.random() < 0.5 else {}
        query |= {"disagree": "true"} if rng.random() < 0.3 else {}
        query |= {"q": f"number {rng.randrange(977)} "} if rng.random() < 0.2 else {}
        return "clips", query | {"sort": rng.choice(("order", "name", "-confidence", "confidence", "prediction"))}
    if kind < 0.8:
        return "clip", {"id": clip}
    if kind < 0.9:
        return "confusion", {"split": rng.choice(("train", "test"))}
    return "clip/neighbours", {"id": clip, "k": 6}


def browse(port: int, users: int, seconds: float, clips: int) -> dict[str, list[float]]:
    """Let users click for a while; milliseconds of every answer, by what was asked."""
    found: dict[str, list[float]] = {}
    lock, end = threading.Lock(), time.monotonic() + seconds

    def user(seed: int) -> None:
        rng = random.Random(seed)
        time.sleep(rng.uniform(0, THINK_S[1]))
        line = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while time.monotonic() < end:
            what, query = click(rng, clips)
            start = time.perf_counter()
            line.request("GET", f"/api/{what}?{urlencode(query)}")
            answer = line.getresponse()
            body = answer.read()
            took = 1000 * (time.perf_counter() - start)
            if answer.status != 200:
                raise RuntimeError(f"{what} {query}: {body[:200]!r}")
            with lock:
                found.setdefault(what, []).append(took)
            time.sleep(rng.uniform(*THINK_S))

    with ThreadPoolExecutor(users) as pool:
        for done in [pool.submit(user, seed) for seed in range(users)]:
            done.result()
    return found


def first_paint(port: int) -> tuple[float, float] | None:
    """Milliseconds to the first paint of the list, and until its lines stand there; `None` without Chromium."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(word)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        browser.get(f"http://127.0.0.1:{port}/?view=jobs")  # the program itself is warm then
        paints, whole = [], []
        for _ in range(3):
            browser.get(f"http://127.0.0.1:{port}/?view=clips")
            ready = (
                "const [done] = arguments; const look = () => document.querySelector('.clips tbody tr') ? "
                "done([performance.getEntriesByName('first-contentful-paint')[0].startTime, performance.now()]) : "
                "requestAnimationFrame(look); look()"
            )
            paint, lines = browser.execute_async_script(ready)
            paints.append(paint)
            whole.append(lines)
        return statistics.median(paints), statistics.median(whole)
    finally:
        browser.quit()


def upload_at_once(folder: Path, uploads: int) -> tuple[float, float, int]:
    """Send so many files at once; seconds until all are answered, peak memory in MiB, and how many are right."""
    generate_workspace(folder, 4)
    for words in (["extract", "--quiet"], ["train", "--head", "logistic", "--cached", "--quiet"]):
        subprocess.run([sys.executable, "-m", "emo.cli", *words], cwd=folder, check=True, capture_output=True)
    files = [folder / f"upload {i}.mp4" for i in range(uploads)]
    for i, path in enumerate(files):
        generate_clip(path, EMOTIONS[i % len(EMOTIONS)], seed=1000 + i)

    def send(path: Path) -> dict[str, object]:
        line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=900)
        head = f'--b\r\ncontent-disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'.encode()
        kind = {"content-type": "multipart/form-data; boundary=b"}
        line.request("POST", "/api/predict", head + path.read_bytes() + b"\r\n--b--\r\n", kind)
        return json.loads(line.getresponse().read())

    with Server(folder) as server:
        start = time.perf_counter()
        with ThreadPoolExecutor(uploads) as pool:
            answers = list(pool.map(send, files))
        took, peak = time.perf_counter() - start, server.peak_mib()
    named = zip(files, answers, strict=True)
    right = sum(each["answers"][0]["name"].startswith(f"{path.stem}@") for path, each in named)  # type: ignore[index]
    left = list(Path(tempfile.gettempdir()).glob("emo-upload-*/*"))
    if left:
        raise RuntimeError(f"files that were sent are still there: {left}")
    return took, peak, right


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--clips", type=int, default=100_000)
    arguments.add_argument("--users", type=int, default=50)
    arguments.add_argument("--seconds", type=float, default=60)
    arguments.add_argument("--uploads", type=int, default=8)
    arguments.add_argument("--page", type=Path, default=PAGE)
    given = arguments.parse_args()
    busy = os.getloadavg()[1]  # with what else, before anything is done here
    with tempfile.TemporaryDirectory() as work:
        many = Path(work) / "many"
        write_many(many, given.clips)
        with Server(many) as server:
            begun = time.perf_counter()
            line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=300)
            line.request("GET", "/api/clips?limit=50")
            line.getresponse().read()
            first_s = time.perf_counter() - begun
            before_s = server.processor_s()
            found = browse(server.port, given.users, given.seconds, given.clips)
            used_s = server.processor_s() - before_s
            painted, peak = first_paint(server.port), server.peak_mib()
        sent = upload_at_once(Path(work) / "few", given.uploads) if given.uploads else None
    everything = [each for times in found.values() for each in times]
    rows = [["what", "answers", "median", "95th percentile", "longest"]]
    for name, times in [*sorted(found.items()), ("all", everything)]:
        shown = [float(np.percentile(times, q)) for q in (50, 95, 100)]
        rows.append([name, f"{len(times):,}", *(f"{each:.0f} ms" for each in shown)])
    low, high = THINK_S
    paint = "First paint: not measured, there is no Chromium here."
    if painted is not None:
        paint = (
            f"First paint of the list in headless Chromium: {painted[0]:.0f} ms; its lines after {painted[1]:.0f} ms."
        )
    words = [
        f"{given.users} users look at {given.clips:,} clips for {given.seconds:.0f} s, on the same processor as the "
        f"server, and read {low:g} to {high:g} s between two clicks. The first request after the start, which reads "
        f"labels, store and answers, took {first_s:.1f} s. The server's largest memory was {peak:,.0f} MiB, and an "
        f"answer took it {1000 * used_s / len(everything):.1f} ms of a core. Load of the machine before the "
        f"measurement, mean of 5 minutes: {busy:.1f}.",
        paint,
    ]
    if sent is not None:
        took, upload_peak, right = sent
        words.append(
            f"{given.uploads} files sent at once (drawn clips, tiny encoders): {right} of {given.uploads} answered "
            f"under their own name, all after {took:.0f} s, none left on the disk; largest memory of server and its "
            f"processes together {upload_peak:,.0f} MiB."
        )
    record(TITLE, typed(), rows, words, given.page)


if __name__ == "__main__":
    main()
