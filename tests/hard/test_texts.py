"""Texts that were changed at random: every reader ends in a value or in an `EmoError`, and soon."""

from __future__ import annotations

import io
import json
import pickle
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from emo.featstore.datasets import open_dataset
from emo.featstore.datasets.lists import names_of, transcript_csv
from emo.featstore.datasets.tables import read_frames, read_labels, read_names
from emo.featstore.errors import EmoError
from emo.featstore.interop import mmsa
from emo.featstore.workspace import DataTable, load_workspace
from emo.train.answers import read_answers
from emo.train.llm.data import read_merr_json
from emo.train.metrics.emer import read_descriptions
from emo.train.metrics.openset import read_synonyms
from emo.train.metrics.words import read_opensets, read_set_answers
from emo.train.recipe import load_recipe

SHORT, LONG = 150, 1200  # changed texts of each kind
LIMIT_S = 10  # nothing that is read here is larger than some kilobytes


class Kind(NamedTuple):
    """A valid file, and what reads it."""

    name: str
    valid: str | bytes
    read: Callable[[Path], Any]


def npz(**tables: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **{name: np.array(table, dtype=object) for name, table in tables.items()})
    return file.getvalue()


def dataset(path: Path) -> Any:
    """Everything that a folder with these labels says; the clips are `c0` to `c9`."""
    return list((found := open_dataset("mine", DataTable("mine", path.parent, labels=path))).clips()), found.check()


def texts(path: Path) -> Any:
    found = open_dataset("mine", DataTable("mine", path.parent, transcripts=path))
    return list(found.clips()), found.check()


def stacked(find: Any, **options: Any) -> Callable[[Path], Any]:
    """All that a layout finds in a file, read."""
    from contextlib import ExitStack

    def read(path: Path) -> Any:
        with ExitStack() as files:
            found = find(path, files, **options)
            for source in found.sources if found else ():
                for _, place in source.places:
                    try:
                        source.read(place)
                    except EmoError:
                        continue

    return read


CSV = "name,label,valence,split,speaker\n" + "".join(f'c{i},happy,{i / 4},train,"S {i}"\n' for i in range(8))
JSONL = "".join(json.dumps({"name": f"c{i}", "label": "sad", "valence": i, "split": "test"}) + "\n" for i in range(8))
SAID = "name,chinese,english\n" + "".join(f'c{i},你好,"Well, hello\nagain"\n' for i in range(8))
MERR = json.dumps({f"c{i}": {"pseu_emotion": "sad", "smp_reason_caption": "So.", "peak_index": i} for i in range(8)})
TOML = """[store]
path = "a.emo"
[data.mine]
root = "."
kind = "folder"
classes = ["happy", "none"]
[extract]
profile = "tiny"
encoders = ["HL-UTT"]
faces_every = 5
[weights]
"HL-UTT" = "a/b"
"""
RECIPE = (Path(load_recipe.__code__.co_filename).parent / "recipes" / "logistic.yaml").read_text(encoding="utf-8")
TABLE = {f"c{i}": {"emo": "sad", "val": np.float64(i / 8)} for i in range(8)}
SPLITS = {"train": {"id": ["a", "b"], "audio": np.ones((2, 3, 4), np.float32), "raw_text": np.array(["x", "yy"])}}
KINDS = [
    Kind("labels.csv", CSV, dataset),
    Kind("labels.jsonl", JSONL, dataset),
    Kind("labels.txt", "".join(f"c{i} {i} happy 0.5\n" for i in range(8)), dataset),
    Kind("label.npz", npz(train_corpus=TABLE), dataset),
    Kind("score.csv", CSV, read_labels),
    Kind("score.npz", npz(train_corpus=TABLE), read_labels),
    Kind("transcripts.csv", SAID, texts),
    Kind("transcription.jsonl", JSONL.replace("label", "english"), transcript_csv),
    Kind("names.csv", CSV, read_names),
    Kind("merr.json", MERR, names_of),
    Kind("frames.json", MERR, read_frames),
    Kind("frames.csv", "name,frame\n" + "".join(f"c{i},{i}\n" for i in range(8)), read_frames),
    Kind("emo.toml", TOML, load_workspace),
    Kind("feature.pkl", pickle.dumps(SPLITS), stacked(mmsa.find)),
    Kind("answers.csv", CSV.replace("label", "prediction"), read_answers),
    Kind("answers.jsonl", JSONL.replace("label", "answer"), read_answers),
    Kind("answers.json", json.dumps({f"c{i}": "I am happy" for i in range(8)}), read_answers),
    Kind("reasons.json", MERR, lambda path: read_merr_json(path, "smp_reason_caption", ("sad", "happy"))),
    Kind("openset.csv", "name,openset\n" + "".join(f"c{i},\"['sad', 'shy']\"\n" for i in range(8)), read_opensets),
    Kind("sets.csv", "name,prediction\n" + "".join(f"c{i},sad\n" for i in range(8)), read_set_answers),
    Kind("synonyms.json", json.dumps([["sad", "unhappy"], ["glad", "happy"]]), read_synonyms),
    Kind("descriptions.csv", SAID, lambda path: read_descriptions(path, "en")),
    Kind("recipe.yaml", RECIPE, load_recipe),
]
NASTY = [
    *(
        b'"',
        b'""',
        b"'",
        b",",
        b"\n",
        b"\r",
        b"\0",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b":",
        b"#",
        b"=",
        b"&a",
        b"*a",
        b"!!x",
    ),
    *(b"\xff", b"\xc3", b"\xef\xbb\xbf", "\u200b".encode(), "\u2028".encode(), "\u0660".encode(), "ｎａｎ".encode()),
    *(
        b"nan",
        b"NaN",
        b"Infinity",
        b"-0",
        b"1e999",
        b"null",
        b"true",
        b"none",
        b"1979-13-45",
        b"24:61:00",
        b"0x",
        b"1_0",
    ),
    *(b"\\ud800", b"\\udcff", b"\\u0000", b"\\x", b"~nobody/x", b"../..", b"C:\\x", b"a" * 400, "é".encode() * 300),
    *(b"9" * 5000, b"-" + b"9" * 5000 + b".0", b"[" * 5000, b'{"a":' * 3000, b"(" * 3000, b"a=" * 500, b"- " * 3000),
]


def changed(valid: bytes, dice: random.Random) -> bytes:
    data = bytearray(valid)
    for _ in range(dice.choice((1, 1, 1, 2, 3, 8))):
        at = dice.randrange(len(data) + 1)
        length = dice.choice((1, 1, 2, 5, 20, 100))
        match dice.randrange(7):
            case 0:
                data[at:at] = dice.choice(NASTY)
            case 1:
                data[at : at + length] = dice.choice(NASTY)
            case 2:
                del data[at : at + length]
            case 3:
                data[at:at] = data[(start := dice.randrange(len(data) + 1)) : start + length]
            case 4:
                data[at : at + 1] = bytes([dice.randrange(256)])
            case 5:
                del data[at:]
            case 6:
                data = bytearray(
                    bytes(data).replace(*dice.choice([(b",", b";"), (b"\n", b"\r\n"), (b'"', b""), (b"c", b"C")]))
                )
    return bytes(data)


class TooLong(BaseException):
    """Goes through every `except Exception`."""


def stop(*_: Any) -> None:
    raise TooLong


@pytest.mark.parametrize("place", range(len(KINDS)), ids=[kind.name for kind in KINDS])
def test_every_changed_text_ends_in_a_value_or_a_sentence(place: int, hard: bool, tmp_path: Path) -> None:
    kind, dice, ends, wrong = KINDS[place], random.Random(place), Counter[str](), []
    valid = kind.valid if isinstance(kind.valid, bytes) else kind.valid.encode()
    path = tmp_path / kind.name
    path.write_bytes(valid)
    kind.read(path)
    before = signal.signal(signal.SIGALRM, stop)
    try:
        for _ in range(LONG if hard else SHORT):
            data = changed(valid, dice)
            path.write_bytes(data)
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            try:
                repr(kind.read(path)).encode()
                ends["read"] += 1
            except EmoError as error:
                str(error).encode()
                ends["refused"] += 1
            except (Exception, TooLong) as error:  # noqa: BLE001 - whatever it is, it is what this test looks for
                wrong.append(f"{type(error).__name__}: {error!s:.100} of {data[:200]!r}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
    finally:
        signal.signal(signal.SIGALRM, before)
    print(f"{kind.name}: {ends['read']:,} read, {ends['refused']:,} refused, {len(wrong):,} wrong")
    assert not wrong, f"{len(wrong)} of {kind.name}: " + "\n".join(wrong[:5])
    assert ends["refused"]


_FUZZ = """
import pickle, random, sys
import numpy as np
from emo.featstore.pickles import Damaged, Refused, read_pickle

table = {f"c{i}": {"emo": "sad", "val": np.float64(i / 8)} for i in range(6)}
mmsa = {"train": {"id": ["a", "b"], "audio": np.ones((2, 3, 4), np.float32), "raw_text": np.array(["x", "yy"])}}
seeds = [pickle.dumps(v, p) for v in (np.array(table, object), mmsa, [np.array([b"a", 1], object)]) for p in range(6)]
dice = random.Random(int(sys.argv[1]))
read = refused = 0
for _ in range(int(sys.argv[2])):
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        where = dice.randrange(len(data))
        kind = dice.randrange(4)
        if kind == 0:
            data[where] = dice.randrange(256)
        elif kind == 1:
            del data[where : where + dice.randrange(1, 9)]
        elif kind == 2:
            data[where:where] = data[(at := dice.randrange(len(data))) : at + dice.randrange(1, 40)]
        else:
            other = dice.choice(seeds)
            data[where:where] = other[(at := dice.randrange(len(other))) : at + dice.randrange(1, 40)]
        data = data or bytearray(b".")
    try:
        repr(read_pickle(bytes(data))[0])
        read += 1
    except (Damaged, Refused):
        refused += 1
    except RecursionError:  # of repr
        read += 1
print(read, refused)
"""


def test_changed_pickles_never_end_the_process(hard: bool) -> None:
    """In a process of its own: numpy makes a segmentation fault of a forged array of objects."""
    count = 60_000 if hard else 3000
    done = subprocess.run([sys.executable, "-c", _FUZZ, "1", str(count)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    read, refused = map(int, done.stdout.split())
    assert read + refused == count
    assert read > count // 50
    assert refused > count // 2
