"""Annotating many clips: offline at two sizes, and through an endpoint that takes 50 ms for each answer.

python tests/benchmarks/annotate.py
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
from record import PAGE, record, typed

from emo.extract.annotate.actions import INTENSITIES, PRESENCES, rules
from emo.extract.annotate.pages import run_page
from emo.featstore.workspace import load_workspace

TITLE = "P11 Annotating many clips"
FRAMES = 25
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
    """Annotate a study and print seconds, annotations and the most memory that the process held."""
    start_s = time.monotonic()
    value = run_page(load_workspace(folder), lambda sentence: None, **flags).value
    took_s = time.monotonic() - start_s
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": took_s, "made": value["made"], "requests": value["requests"], "MiB": memory}))


def measured(folder: Path, **flags: Any) -> dict[str, float]:
    """Run it in a process of its own."""
    command = [sys.executable, __file__, "--run", str(folder), json.dumps(flags)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(found.stdout.splitlines()[-1])


# ---- an endpoint -----------------------------------------------------------------------------------------------------


def serve(delay_s: float) -> None:
    """Answer chat completions after a while; prints its port."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(each.split(b":")[1]) for each in head.split(b"\r\n") if each.lower().startswith(b"content-l"))
        body = await reader.readexactly(length)
        await asyncio.sleep(delay_s)
        label = body.rpartition(b"feels ")[2].partition(b".")[0].decode() if b"infer why" in body else "seen"
        said = {"choices": [{"message": {"content": f"The face moves, which is {label}."}, "finish_reason": "stop"}]}
        data = json.dumps(said).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(data) + data)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=256)
        print(server.sockets[0].getsockname()[1], flush=True)
        await server.serve_forever()

    asyncio.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--small", type=int, default=1_000)
    parser.add_argument("--asked", type=int, default=640, help="clips that are sent to the endpoint")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds that the endpoint takes")
    parser.add_argument("--page", type=Path, default=PAGE, help="document to write the section into")
    given = parser.parse_args()
    rows, load = [], os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as name:
        costs = []
        for clips in (given.small, given.clips):
            folder = Path(name) / str(clips)
            write_study(folder, clips)
            found = measured(folder)
            costs.append(1000 * found["seconds"] / clips)
            what = f"offline, {clips:,} clips"
            rows.append((what, f"{clips / found['seconds']:.1f} clips/s", f"{costs[-1]:.1f} ms", f"{found['MiB']:.0f}"))
        folder = Path(name) / "asked"
        write_study(folder, given.asked)
        command = [sys.executable, __file__, "--serve", str(given.delay)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/v1#stub"
            found = measured(folder, describer=url, concurrency=given.concurrency)
            server.terminate()
        ideal_s = found["requests"] * given.delay / given.concurrency
        rate = f"{found['requests'] / found['seconds']:.0f} answers/s"
        what = f"endpoint of {1000 * given.delay:.0f} ms, concurrency {given.concurrency}, {given.asked:,} clips"
        rows.append((what, rate, f"{ideal_s / found['seconds']:.2f} of the ideal", f"{found['MiB']:.0f}"))
    words = [
        f"Clips of one second (160 x 120, 16 kHz), each with content of its own and a table of action units. Cost per "
        f"clip at {given.clips:,} clips: {costs[1] / costs[0]:.2f} of that at {given.small:,} (goal: 1.10). "
        "The ideal of an endpoint is its time, shared by as many clips as are annotated at once (goal: 0.90 of it).",
        f"Load of the machine when it began, mean of a minute: {load:.1f}; other work beside this makes it slower.",
    ]
    record(TITLE, typed(), [("what", "speed", "cost per clip, or share", "MiB at most"), *rows], words, given.page)
    for row in rows:
        print("  ".join(row))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--run"]:
        run(Path(sys.argv[2]), json.loads(sys.argv[3]))
    elif sys.argv[1:2] == ["--serve"]:
        serve(float(sys.argv[2]))
    else:
        main()
