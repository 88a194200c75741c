"""Annotating many clips: offline at two sizes, and through an endpoint that takes 50 ms for each answer.

The endpoint is asked about clips that must be decoded, and about clips whose frame and sound are described already, so
that only captions and verdicts are asked for; and by threads that do nothing but ask, which is the most that this
machine can do while it runs the endpoint too. What an answer costs in processor time depends less on what else runs.

python tests/benchmarks/annotate.py
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import re
import resource
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias, cast

import av
import numpy as np
from record import PAGE, record, typed

from emo.extract.annotate.actions import INTENSITIES, PRESENCES, rules
from emo.extract.annotate.ask import ASKING_WORKERS
from emo.extract.annotate.pages import run_page
from emo.featstore.datasets import open_dataset
from emo.featstore.storage import snapshot
from emo.featstore.storage.store import open_store
from emo.featstore.workspace import load_workspace

TITLE = "P11 Annotating many clips"
FRAMES = 25
LENGTH = re.compile(rb"(?i)content-length: *(\d+)")
Row: TypeAlias = tuple[str, ...]
TOML = '[store]\npath = "s.emo"\n[data.mine]\nroot = "data"\nkind = "folder"\naus = "openface"\n'


def write_study(folder: Path, clips: int) -> None:
    """Write so many clips of one second, 160 x 120, each with content of its own, and their tables."""
    media = folder / "data" / "clips"
    media.mkdir(parents=True)
    (folder / "openface").mkdir()
    base = _clip(folder / "base.mp4")
    tables = [_table(label) for label in ("happy", "sad", "angry", "surprise")]
    for i in range(clips):
        (media / f"c{i:06d}.mp4").write_bytes(base + struct.pack(">I4sQ", 16, b"free", i))  # a box without meaning
        (folder / "openface" / f"c{i:06d}.csv").write_text(tables[i % 4])
    (folder / "emo.toml").write_text(TOML)


def _clip(path: Path) -> bytes:
    rng = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=FRAMES)
        video.width, video.height, video.pix_fmt = 160, 120, "yuv420p"
        audio = container.add_stream("aac", rate=16_000, layout="mono")
        for _ in range(FRAMES):
            image = np.kron(rng.integers(0, 255, (6, 8, 3)), np.ones((20, 20, 1))).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        tone = 0.2 * np.sin(2 * np.pi * 180 * np.arange(16_000) / 16_000)
        sound = av.AudioFrame.from_ndarray(tone.astype(np.float32)[None], format="fltp", layout="mono")
        sound.sample_rate = 16_000
        container.mux(audio.encode(sound))
        container.mux(audio.encode())
    return path.read_bytes()


def _table(label: str) -> str:
    head = ["frame", "timestamp", "confidence", "success", *(f"{u}_r" for u in INTENSITIES)]
    rows = [[*head, *(f"{u}_c" for u in PRESENCES)]]
    for i in range(FRAMES):
        strength = max(0.0, 3.0 - abs(i - 12) / 4)
        units = [strength if unit in rules()[label] else 0.0 for unit in PRESENCES]
        intensities = [strength if unit in rules()[label] else 0.0 for unit in INTENSITIES]
        rows.append([str(each) for each in (i + 1, i / FRAMES, 0.98, 1, *intensities, *(int(u > 1) for u in units))])
    return "\n".join(",".join(row) for row in rows) + "\n"


# ---- one run, in a process of its own --------------------------------------------------------------------------------


def run(folder: Path, flags: dict[str, Any]) -> None:
    """Annotate a study and print seconds, annotations and memory: before, and the most that the process held."""
    resident = [_resident_mib()]
    start_s, spent_s = time.monotonic(), time.process_time()
    value = run_page(load_workspace(folder), lambda sentence: resident.append(_resident_mib()), **flags).value
    found = {"seconds": time.monotonic() - start_s, "processor_s": time.process_time() - spent_s}
    memory = {"MiB": max(*resident, _resident_mib()), "before": resident[0]}
    print(json.dumps({**found, **memory, "made": value["made"], "requests": value["requests"]}))


def _resident_mib() -> float:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / (1 << 20)


def measured(folder: Path, **flags: Any) -> dict[str, float]:
    """Run it in a process of its own."""
    command = [sys.executable, __file__, "--run", str(folder), json.dumps(flags)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


def sizes(folder: Path) -> None:
    """Print what a run holds per clip in KiB: its list of clips, the store's index, and the most of its snapshot."""
    workspace = load_workspace(folder)
    tracemalloc.start()
    clips = list(open_dataset("mine", workspace.table("mine")).clips())
    held = [tracemalloc.get_traced_memory()[0]]
    store = open_store(workspace.store_path)
    index = store.index
    held.append(tracemalloc.get_traced_memory()[0] - held[0])
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    snapshot.encode(index, store.id, index.trailer)
    held.append(tracemalloc.get_traced_memory()[1] - before)
    print(json.dumps([each / len(clips) / 1024 for each in held]))


def kib(folder: Path) -> list[float]:
    """See `sizes`; in a process of its own."""
    command = [sys.executable, __file__, "--sizes", str(folder)]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


# ---- an endpoint -----------------------------------------------------------------------------------------------------


class Served(asyncio.Protocol):
    """One connection to the endpoint.

    Args:
        delay_s: How long each answer takes.
        heard: Gets the time of each question.
    """

    def __init__(self, delay_s: float, heard: list[float]) -> None:
        self._delay_s, self._heard, self._data = delay_s, heard, b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, blank, body = self._data.partition(b"\r\n\r\n")
        if blank and len(body) >= int(LENGTH.search(head)[1]):  # type: ignore[index]
            self._data = b""
            self._heard.append(time.monotonic())
            asyncio.get_running_loop().call_later(self._delay_s, self._say, body)

    def _say(self, body: bytes) -> None:
        data = _answer(body)
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(data) + data)


def serve(delay_s: float) -> None:
    """Answer chat completions after a while; prints its port, and at the end how many and from when to when."""
    heard: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: Served(delay_s, heard), "127.0.0.1", 0, backlog=256)
        print(server.sockets[0].getsockname()[1], flush=True)
        await loop.run_in_executor(None, sys.stdin.read)  # until who started it hangs up
        print(json.dumps({"requests": len(heard), "seconds": heard[-1] - heard[0] + delay_s}), flush=True)

    asyncio.run(main())


def _answer(body: bytes) -> bytes:
    label = body.rpartition(b"feels ")[2].partition(b".")[0].decode() if b"infer why" in body else "seen"
    text = "Yes." if b"Answer yes or no" in body else f"The face moves, which is {label}."
    return json.dumps({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}).encode()


def bare(port: int, at_once: int, each: int) -> None:
    """Ask the endpoint by nothing but the standard library's client: in so many threads, each so many times."""
    question = {"model": "stub", "messages": [{"role": "user", "content": "Who is it? " * 80}]}
    body, kind = json.dumps(question).encode(), {"Content-Type": "application/json"}

    def ask() -> None:
        line = http.client.HTTPConnection("127.0.0.1", port)
        for _ in range(each):
            line.request("POST", "/v1/chat/completions", body, kind)
            line.getresponse().read()

    spent_s, threads = time.process_time(), [threading.Thread(target=ask) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"requests": at_once * each, "processor_s": time.process_time() - spent_s}))


def asked(delay_s: float, at_once: int, client: Callable[[int], dict[str, float]]) -> dict[str, float]:
    """Let a client ask an endpoint at this port, so many questions at once; `share` is of the ideal."""
    command = [sys.executable, __file__, "--serve", str(delay_s)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        found = client(int(server.stdout.readline()))
        told = json.loads(server.communicate()[0])
    ideal_s = told["requests"] * delay_s / at_once
    return {**found, "rate": told["requests"] / told["seconds"], "share": ideal_s / told["seconds"]}


def ask_all(folder: Path, described: Path, given: argparse.Namespace, at_once: int) -> tuple[list[Row], list[float]]:
    """Return a row and the share of the ideal each: of clips that must be decoded, of described ones, of no emo at all.

    Args:
        folder: A study.
        described: Its store with frames and sounds described.
        given: Flags.
        at_once: Questions that may wait.
    """
    store = folder / "s.emo"

    def annotate(names: Sequence[str]) -> dict[str, float]:
        def client(port: int) -> dict[str, float]:
            url = f"http://127.0.0.1:{port}/v1#stub"
            return measured(folder, **dict.fromkeys(names, url), concurrency=at_once, limit=given.asked)

        return asked(given.delay, at_once, client)

    def by_library(port: int) -> dict[str, float]:
        each = 2 * min(given.asked, given.clips) // at_once
        command = [sys.executable, __file__, "--bare", str(port), str(at_once), str(each)]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    shutil.rmtree(store, ignore_errors=True)
    found = [annotate(("describer",))]
    shutil.rmtree(store)
    shutil.copytree(described, store)
    found += [annotate(("caption", "verify")), asked(given.delay, at_once, by_library)]
    what = f"endpoint of {1000 * given.delay:.0f} ms, {at_once} at once, {min(given.asked, given.clips):,} clips: "
    which = ("frame, sound, caption", "caption, verdict", "as many questions by http.client in threads, without emo")
    rows: list[Row] = []
    for name, each in zip(which, found, strict=True):
        cost = f"{1000 * each['processor_s'] / each['requests']:.2f} ms an answer"
        memory = f"{each['MiB']:.0f}" if "MiB" in each else ""
        shares = (f"{each['rate']:.0f} answers/s", cost, f"{each['share']:.2f}", memory)
        rows.append((what + name, *shares))
    return rows, [each["share"] for each in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--asked", type=int, default=2_560, help="clips that the endpoint is asked about")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that the endpoint takes")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    rows: list[Row] = []
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        costs, grown = [], []
        for clips in (given.small, given.clips):
            folder = Path(name) / str(clips)
            write_study(folder, clips)
            found = measured(folder)
            costs.append(1000 * found["processor_s"] / clips)
            grown.append(found["MiB"] - found["before"])
            speed = f"{clips / found['seconds']:.1f} clips/s"
            memory = f"{found['MiB']:.0f} ({grown[-1]:.0f} above the start)"
            rows.append((f"offline, {clips:,} clips", speed, f"{costs[-1]:.1f} ms a clip", "", memory))
        listed, indexed, at_end = kib(folder)
        described = shutil.copytree(folder / "s.emo", Path(name) / "described.emo")
        many, (_, share, most) = ask_all(folder, described, given, given.concurrency)
        rows += many + ask_all(folder, described, given, ASKING_WORKERS)[0]
    ideal = given.concurrency / given.delay
    words = [
        f"Clips of one second (160 x 120, 16 kHz), each with content of its own and a table of action units. Processor "
        f"time per clip at {given.clips:,} clips: {costs[1] / costs[0]:.2f} of that at {given.small:,} (goal: 1.10); "
        f"memory grows by {1024 * (grown[1] - grown[0]) / (given.clips - given.small):.1f} KiB a clip: the list of "
        f"clips takes {listed:.1f}, the store's index of their records {indexed:.1f} (more while it grows), and its "
        f"snapshot, made once at the end of a run over so many, {at_end:.1f} for a moment.",
        f"The ideal at {given.concurrency} at once is {ideal:,.0f} answers/s, from the first question to the last "
        f"answer (goal: 0.90 of it). Captions and verdicts come to {share:.2f}, which is {share / most:.2f} of what "
        f"threads reach that ask by http.client and do nothing else ({most:.2f}): the endpoint is here too. The ideal "
        f"leaves {1000 / ideal:.2f} ms to each answer. Where clips must be decoded, in other processes, the processors "
        "are the limit, and not the waiting.",
        f"Load of the machine when it began, mean of a minute: {load:.1f} on {os.cpu_count()} processors; other work "
        "beside this makes it slower, and shares are then those of the processors.",
    ]
    columns = ("what", "speed", "processor time of this process", "share of the ideal", "MiB at most")
    record(TITLE, typed(), [columns, *rows], words, given.page)
    for row in rows:
        print("  ".join(row))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]), json.loads(sys.argv[3]))
    elif sys.argv[1:2] == ["--sizes"]:
        sizes(Path(sys.argv[2]))
    elif sys.argv[1:2] == ["--serve"]:
        serve(float(sys.argv[2]))
    elif sys.argv[1:2] == ["--bare"]:
        bare(*map(int, sys.argv[2:]))
    else:
        main()
