"""Files that others wrote: whatever is wrong with one ends in one sentence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.featstore.reading import parse_json, read_bytes, read_json, read_jsonl, read_text, read_toml
from emo.featstore.workspace import find_workspace, load_workspace

READERS = [read_bytes, read_text, read_json, lambda path: list(read_jsonl(path)), read_toml]


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: None, "does not exist"),
        (os.mkfifo, "is no regular file but a pipe or a device."),
        (os.mkdir, "is a folder"),
        (link_to_itself, "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_what_is_no_file_is_said_at_once(
    read: Callable[[Path], object], make: Callable[[Path], object], said: str, tmp_path: Path
) -> None:
    make(tmp_path / "a")
    with pytest.raises(UsageError, match=f"a {said}"):
        read(tmp_path / "a")


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 300])
def test_names_that_no_file_can_have_are_said(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be"):
        read_bytes(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"caf\xe9", "not UTF-8 text .byte 3."),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 100_000, "nested too deeply"),
        (b"9" * 5000, "a number of more than 4,300 digits"),
        (b'\n{"a": 1', "line 2 is not JSON"),
        (b" ", "is empty"),
    ],
)
def test_json_that_cannot_be_read_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a = 1979-13-45", "not valid TOML"),
        (b"a = 2023-02-30", "not valid TOML"),
        (b"a = 2023-02-30T25:61:00Z", "not valid TOML"),
        (b"a = " + b"9" * 5000, "more than 4,300 digits"),
        (b"a = " + b"[" * 5000, "nested too deeply"),
        (b"a = '\xe9'", "not UTF-8"),
        (b'a = "\\ud800"', "not valid TOML"),
    ],
)
def test_toml_that_cannot_be_read_is_one_sentence(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "emo.toml").write_bytes(content)
    for read in (read_toml, load_workspace):
        with pytest.raises(UsageError, match=said):
            read(tmp_path / "emo.toml")


def test_half_a_character_in_json_is_replaced_and_all_else_is_kept() -> None:
    read = {
        text: parse_json(text, "a") for text in (r'"\ud800a"', r'"\ud83d\ude00"', r'"\\ud800"', r'"\udc00\ud83d\ude00"')
    }
    assert list(read.values()) == ["\ufffda", "\U0001f600", r"\ud800", "\ufffd\U0001f600"]


def test_a_workspace_in_a_circle_of_links_is_said(tmp_path: Path) -> None:
    link_to_itself(tmp_path / "emo.toml")
    with pytest.raises(UsageError, match=r"Too many levels|does not exist"):
        load_workspace(tmp_path / "emo.toml")
    with pytest.raises(UsageError, match=r"No emo\.toml"):
        find_workspace(tmp_path)


@pytest.mark.parametrize("root", ["x" * 300, "a\\u0000b", "~nobody-of-this-name/x"])
def test_a_folder_that_cannot_be_is_a_problem_of_the_workspace(root: str, tmp_path: Path) -> None:
    (tmp_path / "emo.toml").write_text(f'[data.mine]\nroot = "{root}"\n[weights]\n"HL-UTT" = "{root}"\n')
    if root.startswith("~"):
        workspace = load_workspace(tmp_path)
        assert workspace.weights_at("HL-UTT") is not None
    else:
        with pytest.raises(UsageError, match="no file can have this name"):
            load_workspace(tmp_path)
