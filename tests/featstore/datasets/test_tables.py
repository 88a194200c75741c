"""Readers of label lists, csv files, label npz and frame tables: what they take, and what they say when they cannot."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from emo.featstore.clip import Label
from emo.featstore.datasets.lists import listed_file
from emo.featstore.datasets.tables import (
    ListRow,
    npz_splits,
    read_csv,
    read_frames,
    read_label_npz,
    read_labels,
    read_list,
    read_names,
    read_npz_dict,
)
from emo.featstore.errors import UsageError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


# ---- lists ----------------------------------------------------------------------------------------------------------


def test_list_has_three_or_four_columns_and_any_blanks(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "a 35 Angry -1.174107\n\n b\t125  sad   -10 \nc 0 happy\n", "utf-8-sig")
    assert read_list(path) == [
        ListRow("a", 35, Label("angry", -1.174107)),
        ListRow("b", 125, Label("sad", None)),  # -10 is "not annotated"
        ListRow("c", 0, Label("happy", None)),
    ]


def test_list_takes_names_with_blanks_and_class_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "my clip 2 35 angry\nsample 50 2\n")
    assert [(row.name, row.frames, row.label.emotion) for row in read_list(path)] == [
        ("my clip 2", 35, "angry"),
        ("sample", 50, "2"),
    ]


def test_list_names_its_bad_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "l.txt", "a 35 angry\nb angry\nc 1 sad 0.5 extra\n")
    with pytest.raises(UsageError, match=r"line 2: 'b angry'; line 3"):
        read_list(path)


def test_list_with_a_name_twice_is_refused_unless_equal(tmp_path: Path) -> None:
    assert len(read_list(write(tmp_path / "same.txt", "a 1 sad\na 1 sad\n"))) == 1
    with pytest.raises(UsageError, match="a twice, in lines 1 and 3"):
        read_list(write(tmp_path / "l.txt", "a 1 sad\nb 1 sad\na 1 happy\n"))


# ---- csv ------------------------------------------------------------------------------------------------------------


def test_csv_columns_are_found_by_any_spelling(tmp_path: Path) -> None:
    path = write(tmp_path / "c.csv", 'Name , Emotion\n"a", sad \n\nb,"x, y"\n', "utf-8-sig")
    rows = read_csv(path, ["name", ("label", "emotion")], ["valence"])
    assert [(row.line, dict(row.fields)) for row in rows] == [
        (2, {"name": "a", "label": "sad"}),
        (4, {"name": "b", "label": "x, y"}),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is empty"),
        ("name,label\n", "header and no rows"),
        ("name,x\na,b\n", "has no column label or emotion"),
        ("name;label\na;b\n", "commas between columns"),
        ("name,label\na,b\nc,d,e\n", "line 3 has 3 fields where the header has 2"),
        ("name,label\na,sad\na,happy\n", "a twice, in lines 2 and 3"),
        ("name,label\n,sad\n", "line 2 has an empty name"),
        ("name,label,valence\na,sad,much\n", "line 2: valence 'much' is not a number"),
    ],
)
def test_csv_problems_say_where(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "c.csv", text)
    with pytest.raises(UsageError, match=said):
        read_labels(path)


def test_csv_in_another_encoding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        read_labels(write(tmp_path / "c.csv", "name,label\na,fröhlich\n", "latin-1"))


# ---- npz ------------------------------------------------------------------------------------------------------------


def npz(path: Path, **tables: object) -> Path:
    np.savez_compressed(path, **{name: np.array(table, dtype=object) for name, table in tables.items()})
    return path


def test_npz_labels_of_a_split(tmp_path: Path) -> None:
    path = npz(
        tmp_path / "label.npz",
        train_corpus={"a": {"emo": "Neutral", "val": np.float64(-0.25)}, "b": {"emo": "sad", "val": -10}},
        test1_corpus={"c": {"emo": np.int64(2), "val": 0.0}},
    )
    assert npz_splits(path) == ["train_corpus", "test1_corpus"]
    assert read_label_npz(path, "train") == {"a": Label("neutral", -0.25), "b": Label("sad", None)}
    assert read_label_npz(path, "test1") == {"c": Label("2", 0.0)}
    assert read_label_npz(path, "test1", classes=("x", "y", "z")) == {"c": Label("z", 0.0)}
    with pytest.raises(UsageError, match="class 2 where 1 are known"):
        read_label_npz(path, "test1", classes=("x",))
    with pytest.raises(UsageError, match=r"no split 'test9'. It has train_corpus, test1_corpus"):
        read_label_npz(path, "test9")


class Evil:
    """A pickle that runs a command when it is opened the usual way."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.proof),)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_npz_that_carries_code_is_refused_and_runs_nothing(tmp_path: Path, protocol: int) -> None:
    proof = tmp_path / "ran"
    array = np.empty((), dtype=object)
    array[()] = {"a": Evil(proof)}
    with open(tmp_path / "member.npy", "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        pickle.dump(array, file, protocol=protocol)
    path = tmp_path / "label.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(tmp_path / "member.npy", "train_corpus.npy")
    with pytest.raises(UsageError, match=r"refused: it wants to run \w+.mkdir"):
        read_label_npz(path, "train_corpus")
    assert not proof.exists()
    np.load(path, allow_pickle=True)["train_corpus"]
    assert proof.exists()  # the usual way does run it


def test_npz_that_is_damaged_never_gives_wrong_labels(tmp_path: Path) -> None:
    labels = {f"clip{i}": {"emo": "sad", "val": i / 8} for i in range(200)}
    path = npz(tmp_path / "label.npz", train_corpus=labels)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="not an npz file"):
        npz_splits(path)
    refused = 0
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0xFF]) + whole[position + 1 :])
        try:
            assert read_npz_dict(path, "train_corpus") == labels  # a byte that means nothing, such as a date
        except UsageError:
            refused += 1
    assert refused > 100


def test_npz_without_labels_is_a_sentence(tmp_path: Path) -> None:
    numbers = tmp_path / "n.npz"
    np.savez(numbers, a=np.arange(3))
    with pytest.raises(UsageError, match="not a dictionary"):
        read_labels(numbers)
    with pytest.raises(UsageError, match="x has no 'emo'"):
        read_labels(npz(tmp_path / "m.npz", a={"x": 3}))
    with pytest.raises(UsageError, match="is empty"):
        read_labels(npz(tmp_path / "e.npz", a={}))


# ---- any labels -----------------------------------------------------------------------------------------------------


def test_labels_by_suffix_and_split(tmp_path: Path) -> None:
    table = npz(tmp_path / "l.npz", train_corpus={"a": {"emo": "sad"}}, test3_corpus={"b": {"emo": "happy"}})
    listed = write(tmp_path / "l.txt", "c 1 angry\n")
    csv = write(tmp_path / "l.csv", "name,discrete,valence,split\nd,Worried,-1,train\ne,,,test\n")
    assert read_labels(table, "test3") == {"b": Label("happy")}
    assert read_labels(tmp_path / "l.npz#train") == {"a": Label("sad")}
    assert read_labels(listed) == {"c": Label("angry")}
    assert read_labels(csv) == {"d": Label("worried", -1.0), "e": Label()}
    assert read_labels(tmp_path / "l.csv#train_corpus") == {"d": Label("worried", -1.0)}
    with pytest.raises(UsageError, match=r"holds the splits train_corpus, test3_corpus. Choose one: l.npz#test3"):
        read_labels(table)
    with pytest.raises(UsageError, match=r"no rows of split 'val'\. It has test, train"):
        read_labels(csv, "val")
    with pytest.raises(UsageError, match="has no splits"):
        read_labels(tmp_path / "l.txt#test")


@pytest.mark.parametrize("name", ["no.txt", "no.csv", "no.npz", "no.npz#a"])
def test_absent_file_is_a_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"no\.\w+ does not exist"):
        read_labels(tmp_path / name)


def test_names_are_compared_in_one_unicode_form(tmp_path: Path) -> None:
    assert "\u00fc" in read_labels(write(tmp_path / "l.txt", "u\u0308 1 sad\n"))


def test_real_files(shared: Path) -> None:
    mer = shared / "data" / "mer2023"
    counts = {split: len(read_label_npz(mer / "label-6way.npz", split)) for split in npz_splits(mer / "label-6way.npz")}
    assert counts == {"train_corpus": 3373, "test1_corpus": 411, "test2_corpus": 412, "test3_corpus": 834}
    listed = read_labels(mer / "relative_test3_NCEV.txt")
    assert listed == read_labels(mer / "label-6way.npz#test3")
    assert len(read_label_npz(shared / "data" / "mosi" / "label.npz", "train")) == 1284  # numpy scalars inside
    classes = ("anger", "joy", "sadness", "neutral", "disgust", "fear", "surprise")
    meld = read_label_npz(shared / "data" / "meld" / "label.npz", "test", classes)
    assert sum(label.emotion == "neutral" for label in meld.values()) > 1000


# ---- frames ---------------------------------------------------------------------------------------------------------


def test_frame_tables(tmp_path: Path) -> None:
    assert read_frames(write(tmp_path / "f.csv", "name,frame\na,12\nb,0\n")) == {"a": 12, "b": 0}
    merr = write(tmp_path / "f.json", '{"a": {"peak_index": "35", "AU_list": []}, "b": 3}')
    assert read_frames(merr) == {"a": 35, "b": 3}
    with pytest.raises(UsageError, match="line 2: frame index '-1'"):
        read_frames(write(tmp_path / "f.csv", "name,frame\na,-1\n"))
    with pytest.raises(UsageError, match="a: frame index None"):
        read_frames(write(tmp_path / "f.json", '{"a": {}}'))
    with pytest.raises(UsageError, match="line 1 is not JSON"):
        read_frames(write(tmp_path / "f.json", "{,}"))


def test_real_peak_frames(shared: Path) -> None:
    assert len(read_frames(shared / "data" / "merr" / "MERR_fine_grained.json")) == 4487


# ---- quotes that nobody closes --------------------------------------------------------------------------------------


def rows_of(broken: dict[int, str], header: str = "name,label", other: str = "happy", count: int = 20) -> str:
    return f"{header}\n" + "".join(f"c{i},{broken.get(i, other)}\n" for i in range(count))


@pytest.mark.parametrize(
    ("broken", "line"),
    [
        ({5: '"sad'}, 7),  # to the end of the file
        ({5: '"sad', 9: '"sad'}, 7),
        ({5: '"sad', 9: '"sad"'}, 7),
        ({5: '"sad', 9: 'happy"'}, 7),  # a well-formed csv of 16 rows
        ({0: '"sad', 19: 'happy"'}, 2),
        ({5: '"a"b'}, 7),
        ({19: '"sad'}, 21),
    ],
)
def test_a_quote_that_swallows_rows_is_refused_with_its_line(tmp_path: Path, broken: dict[int, str], line: int) -> None:
    path = write(tmp_path / "l.csv", rows_of(broken))
    for read in (read_labels, lambda path: read_csv(path, ["name", "label"]), read_names):
        with pytest.raises(UsageError, match=rf"l\.csv line {line} opens a quote"):
            read(path)


def test_texts_of_several_lines_are_read_whole(tmp_path: Path) -> None:
    text = 'name,text\nc1,"Hello,\nand, well, good bye\n\nthe end"\nc2,"She said ""no"", twice"\nc3,it\'s 5" long\n'
    rows = read_csv(write(tmp_path / "t.csv", text), ["name", "text"])
    assert [(row.line, row.fields["text"]) for row in rows] == [
        (2, "Hello,\nand, well, good bye\n\nthe end"),
        (6, 'She said "no", twice'),
        (7, "it's 5\" long"),
    ]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"name": "a", "label": "happy", "emotion": "sad"}, r"column label says 'happy' and column emotion says 'sad'"),
        ({"name": "a", "emotion": "sad", "label": 3}, r"column label says '3' and column emotion says 'sad'"),
        ({"name": "a", "label": "", "discrete": "sad"}, r"column label says '' and column discrete says 'sad'"),
        ({"name": "a", "label": "sad", "valence": 0.5, "val": -1}, r"column valence says '0.5' and column val says"),
        ({"name": "a", "label": " Sad", "emotion": "sad", "valence": 0.5, "val": "0.50"}, None),
        ({"name": "a", "label": "sad", "emotion": ""}, None),
    ],
)
def test_two_columns_that_could_be_the_label_must_agree(
    tmp_path: Path, fields: dict[str, object], said: str | None
) -> None:
    table = write(tmp_path / "l.csv", f"{','.join(fields)}\n{','.join(map(str, fields.values()))}\n")
    lines = write(tmp_path / "l.jsonl", json.dumps(fields) + "\n")
    for path, line in ((table, 2), (lines, 1)):
        if said is None:
            assert read_labels(path)["a"].emotion == "sad"
        else:
            with pytest.raises(UsageError, match=f"line {line}: {said}"):
                read_labels(path)
            with pytest.raises(UsageError, match=f"line {line}: {said}"):
                listed_file(path)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "l.csv", "name,label,label\na,sad,happy\n")
    with pytest.raises(UsageError, match="several columns label"):
        read_labels(path)


# ---- cells that say nothing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["nan", "NA", "None", "null", "-", "?", "unknown", ""])
@pytest.mark.parametrize("form", ["csv", "jsonl", "npz", "txt"])
def test_what_says_nothing_is_no_label_in_any_form(tmp_path: Path, word: str, form: str) -> None:
    path = tmp_path / f"labels.{form}"
    if form == "npz":
        npz(path, train={"a": {"emo": word, "val": word}, "b": {"emo": "Sad", "val": 1}})
    elif form == "jsonl":
        write(
            path,
            f'{{"name": "a", "label": "{word}", "valence": "{word}"}}\n{{"name": "b", "label": "Sad", "valence": 1}}\n',
        )
    elif form == "csv":
        write(path, f"name,label,valence\na,{word},{word}\nb,Sad,1\n")
    elif word:
        write(path, f"a 1 {word}\nb 1 Sad 1\n")
    else:
        return
    assert read_labels(path) == {"a": Label(), "b": Label("sad", 1.0)}
    assert read_labels(path, classes=["sad", word.lower()])["a"].emotion == (word.lower() or None)


def test_json_null_and_nan_are_no_label(tmp_path: Path) -> None:
    path = write(
        tmp_path / "l.jsonl", '{"name": "a", "label": null}\n{"name": "b", "label": NaN}\n{"name": "c", "label": 0.0}\n'
    )
    assert read_labels(path) == {"a": Label(), "b": Label(), "c": Label("0")}
    table = npz(tmp_path / "l.npz", train={"a": {"emo": None}, "b": {"emo": float("nan")}, "c": {"emo": 2.0}})
    assert read_labels(table, classes=["x", "y", "z"]) == {"a": Label(), "b": Label(), "c": Label("z")}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_labels_of_a_split_are_read_from_csv_and_jsonl_alike(tmp_path: Path, suffix: str) -> None:
    rows = [{"name": "a", "label": "sad", "split": "train"}, {"name": "b", "label": "happy", "split": "test"}]
    text = "name,label,split\n" + "".join(",".join(row.values()) + "\n" for row in rows)
    path = write(tmp_path / f"l{suffix}", text if suffix == ".csv" else "".join(json.dumps(row) + "\n" for row in rows))
    assert read_labels(tmp_path / f"{path.name}#test") == {"b": Label("happy")}
    assert read_names(path) == ["a", "b"]
    with pytest.raises(UsageError, match="has no rows of split 'val'"):
        read_labels(path, "val")


def test_values_without_end_are_refused(tmp_path: Path) -> None:
    nested: list[object] = []
    for _ in range(30):
        nested = [nested, nested]
    table = npz(tmp_path / "l.npz", train={"a": {"emo": nested}})
    with pytest.raises(UsageError, match="no word and no number"):
        read_labels(table)
    for text, said in [("[" * 10_000, "nested too deeply"), ('{"name": ' + "9" * 5000 + "}", "more than 4,300 digits")]:
        with pytest.raises(UsageError, match=said):
            read_labels(write(tmp_path / "l.jsonl", text))
    with pytest.raises(UsageError, match="not a list of"):
        read_labels(write(tmp_path / "l.txt", f"a {'9' * 5000} sad\n"))
    with pytest.raises(UsageError, match="not a whole number"):
        read_frames(write(tmp_path / "f.csv", f"name,frame\na,{'9' * 5000}\n"))
