"""Damage to files and folders, drawn from a seed, and a child process that reads what was damaged."""

from __future__ import annotations

import os
import random
import resource
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryFile

LIMIT_S = 20.0  # for one damaged thing
SILENCE_S = 600.0  # without a line: the preparations of a trial on a machine that does much else
LIMIT_BYTES = 1 << 30  # by which the process may grow while it reads all of them: none is larger than a megabyte
FINE = ("refused", "same", "data", "said")  # data: numbers that no checksum covers; said: in a sentence of the output
NASTY = [b"\0", b"\xff" * 8, b"9" * 5000, b"[" * 3000, b'{"a":' * 2000, b"\xff\xfe", b'"', b"}", b"null", b"-1"]
NASTY += [b"1e999", b"NaN", b"\n", b"F16", b"I32", b"../x", b"\\ud800", "é".encode()]


def changed(data: bytes, dice: random.Random) -> bytes:
    """Bytes with one to three changes, half of them near the beginning or the end, where formats keep their tables."""
    found = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        size = len(found)
        near = dice.choice((size, size, min(size, 600), min(size, 200)))
        at = dice.randrange(near + 1)
        if near < size and dice.randrange(2):
            at = size - at
        length = dice.choice((1, 1, 2, 8, 64, 1000))
        match dice.randrange(9):
            case 0 | 1 | 2 if found:
                found[min(at, size - 1)] ^= 1 << dice.randrange(8)
            case 3:
                found[at : at + 1] = bytes([dice.randrange(256)])
            case 4:
                del found[at:]
            case 5:
                found[at : at + length] = bytes(len(found[at : at + length]))
            case 6:
                found[at:at] = found[(start := dice.randrange(size + 1)) : start + length]
            case 7:
                found[at : at + dice.choice((0, 1, 8))] = dice.choice(NASTY)
            case _:
                del found[at : at + length]
    return bytes(found)


def harm(folder: Path, dice: random.Random) -> str:
    """Damage one file of a folder, or delete it, or put another in its place; says what was done."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path, other = dice.choice(files), dice.choice(files)
    name = path.relative_to(folder).as_posix()
    match dice.randrange(12):
        case 0:
            path.unlink()
            return f"deleted {name}"
        case 1:
            path.unlink()
            path.mkdir()
            return f"a folder in place of {name}"
        case 2 if path != other:
            left, right = path.read_bytes(), other.read_bytes()
            path.write_bytes(right)
            other.write_bytes(left)
            return f"swapped {name} and {other.name}"
        case 3 if path != other:
            shutil.copyfile(other, path)
            return f"{other.name} in place of {name}"
        case 4 | 5:
            path.write_bytes(other_word(path.read_bytes(), dice))
            return f"another word in {name}"
        case _:
            path.write_bytes(changed(path.read_bytes(), dice))
            return f"changed {name}"


def other_word(data: bytes, dice: random.Random) -> bytes:
    """A digit or a letter becomes another, so that a text stays readable; or a line goes."""
    found = bytearray(data)
    if places := [i for i, each in enumerate(data) if chr(each).isalnum()]:
        at = dice.choice(places)
        if dice.randrange(4) == 0:
            lines = data.split(b"\n")
            del lines[dice.randrange(len(lines))]
            return b"\n".join(lines)
        found[at] = ord(dice.choice("0123456789" if chr(data[at]).isdigit() else "abcdefghijklmnopqrstuvwxyz"))
    return bytes(found)


def try_all(trials: int, damaged: Callable[[int], str], read: Callable[[int], str]) -> None:
    """In the child: print a line before each trial, so that crashes and hangs have a name, and how it ended."""
    from emo.featstore.errors import EmoError

    before = _peak_bytes()
    for number in range(trials):
        what = damaged(number)
        print("open", number, what, flush=True)
        start_s = time.monotonic()
        try:
            end = read(number)
        except EmoError as error:
            str(error).encode()
            end = "refused" if error.message.strip() else "refused without a word"
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what the tests look for
            end = f"untyped {type(error).__name__}: {str(error)[:200]!r}".replace("\n", " ")
        if (seconds := time.monotonic() - start_s) > LIMIT_S:
            end = f"slow {seconds:.0f} s, {end}"
        print("end", number, end, flush=True)
    if (grown := _peak_bytes() - before) > LIMIT_BYTES:
        print("end", trials, f"grown by {grown >> 20} MiB", flush=True)


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def in_child(script: str, *arguments: object, trials: int) -> Counter[str]:
    """Run a test file as a script, and count how its trials ended. What was wrong is in the assertion that fails."""
    done = watched([sys.executable, script, *map(str, arguments)])
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"{lines[-1:]} {done.stderr[-3000:]}"
    opened = {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines if line.startswith("open ")}
    ends = [line.split(" ", 2)[1:] for line in lines if line.startswith("end ")]
    wrong = [f"{opened.get(number)}: {end}" for number, end in ends if end not in FINE]
    assert not wrong, f"{len(wrong)} of {trials}:\n" + "\n".join(wrong[:12])
    assert len(ends) == trials
    return Counter(end for _, end in ends)


def watched(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Its whole output. A child that prints nothing for SILENCE_S hangs, however long all of its trials may take."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        child = subprocess.Popen(command, stdout=out, stderr=err)
        printed, spoke_s = -1, time.monotonic()
        while child.poll() is None:
            size = os.fstat(out.fileno()).st_size
            if size != printed:
                printed, spoke_s = size, time.monotonic()
            elif time.monotonic() - spoke_s > SILENCE_S:
                child.kill()
                child.wait()
                out.seek(0)
                raise AssertionError(f"hangs: {out.read().splitlines()[-1:]}")
            time.sleep(0.05)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, child.returncode, out.read(), err.read())
