"""emo.toml: found upwards, read strictly, all problems at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from emo.featstore.errors import UsageError
from emo.featstore.workspace import find_workspace, load_workspace, starter_toml, write_starter


def load(folder: Path, text: str):
    (folder / "emo.toml").write_text(text, encoding="utf-8")
    return load_workspace(folder)


def problems(folder: Path, text: str) -> list[str]:
    with pytest.raises(UsageError) as caught:
        load(folder, text)
    return caught.value.message.splitlines()[1:]


# ---- finding --------------------------------------------------------------------------------------------------------


def test_workspace_is_found_upwards(tmp_path: Path) -> None:
    write_starter(tmp_path)
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert find_workspace(below) == tmp_path.resolve() / "emo.toml"


def test_nearest_workspace_wins(tmp_path: Path) -> None:
    write_starter(tmp_path)
    inner = write_starter(tmp_path / "inner")
    assert find_workspace(tmp_path / "inner") == inner.resolve()


def test_no_workspace_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="emo init") as caught:
        find_workspace(tmp_path)
    assert str(tmp_path.resolve()) in caught.value.message
    assert caught.value.exit_code == 2


# ---- reading --------------------------------------------------------------------------------------------------------


def test_paths_are_relative_to_the_file_and_need_not_exist(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    workspace = load(
        folder,
        """
        [store]
        path = "s.emo"
        [data.MER2023-SEMI]
        root = "../nowhere"
        labels = "../elsewhere/label.npz"
        clips = "/abs/clips"
        [weights]
        "HL-UTT" = "owner/model"
        [train]
        recipe = "r1"
        """,
    )
    table = workspace.table("MER2023-SEMI")
    assert workspace.store_path == folder.resolve() / "s.emo"
    assert table.root == tmp_path.resolve() / "nowhere"
    assert table.labels == tmp_path.resolve() / "elsewhere" / "label.npz"
    assert table.clips == Path("/abs/clips")
    assert table.transcripts is None
    assert workspace.recipe == "r1"


def test_an_empty_file_is_a_workspace_with_defaults(tmp_path: Path) -> None:
    workspace = load(tmp_path, "")
    assert workspace.store_path == tmp_path.resolve() / "features.emo"
    assert workspace.extract.profile == "paper"
    assert workspace.extract.encoders == ("HL-UTT", "mae_340_UTT", "maeV_399_UTT", "eva_g_448")
    assert workspace.extract.frame == "first"


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "emo.toml").write_bytes(b'\xef\xbb\xbf[store]\npath = "s.emo"\n')
    assert load_workspace(tmp_path).store_path.name == "s.emo"


def test_frame_is_a_word_or_a_path(tmp_path: Path) -> None:
    assert load(tmp_path, '[extract]\nframe = "middle"').extract.frame == "middle"
    assert load(tmp_path, '[extract]\nframe = "peaks.json"').extract.frame == str(tmp_path.resolve() / "peaks.json")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[stores]\npath = "x"', ["stores: unknown key", "Did you mean store?"]),
        ('[store]\npaht = "x"', ["store.paht: unknown key", "Did you mean path?"]),
        ('[data.X]\nroot = "."\ntranscript = "t.csv"', ["data.X.transcript", "Did you mean transcripts?"]),
        ('[extract]\nencoder = ["HL-UTT"]', ["extract.encoder", "Did you mean encoders?"]),
        ("[extract]\nzzz = 1", ["extract.zzz", "known are profile"]),
        ('[extract]\nprofile = "papr"', ["extract.profile", "'papr'", "paper or tiny"]),
        ('[extract]\nencoders = "HL-UTT"', ["extract.encoders", "list of names"]),
        ('[extract]\nencoders = ["HL_UTT"]', ["'HL_UTT'", "did you mean 'HL-UTT'?"]),
        ("[extract]\nfaces_every = 0", ["extract.faces_every", "0"]),
        ("[extract]\nfaces_every = true", ["extract.faces_every", "True"]),
        ('[weights]\nmae_304_UTT = "x.pth"', ["weights", "'mae_304_UTT'", "did you mean 'mae_340_UTT'?"]),
        ("[weights]\nllama = 3", ["weights.llama", "text between quotes", "3"]),
        ('[store]\npath = ""', ["store.path", "text between quotes"]),
        ('[data.X]\nlabels = "l.csv"', ["data.X.root", "is missing"]),
        ('data = "x"', ["data: must be a table"]),
        ("[data]\nX = 3", ["data.X: must be a table"]),
    ],
)
def test_each_problem_names_key_and_nearest_known_one(tmp_path: Path, text: str, named: list[str]) -> None:
    lines = problems(tmp_path, text)
    assert len(lines) == 1
    for part in named:
        assert part in lines[0]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    text = '[store]\npaht = "x"\n[extract]\nprofile = "big"\nfaces_every = -1\n[data.X]\nlabels = 1\n[trian]\n'
    assert len(problems(tmp_path, text)) == 6


def test_weights_of_third_party_encoders_are_accepted(tmp_path: Path) -> None:
    workspace = load(tmp_path, '[extract]\nencoders = ["mae_341_UTT"]\n[weights]\nmae_341_UTT = "a.pth"\nother = "b"\n')
    assert set(workspace.weights) == {"mae_341_UTT", "other"}


def test_toml_error_has_line_and_column(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"not valid TOML, line 2, column \d+") as caught:
        load(tmp_path, "[store]\npath = \n")
    assert "at line" not in caught.value.message


def test_windows_path_in_double_quotes_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="single quotes"):
        load(tmp_path, '[store]\npath = "C:\\data"\n')


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "emo.toml").write_bytes(b'[store]\npath = "\xff"\n')
    with pytest.raises(UsageError, match="not UTF-8"):
        load_workspace(tmp_path)


def test_unknown_dataset_names_nearest_and_configured(tmp_path: Path) -> None:
    workspace = load(tmp_path, '[data.MER2023-SEMI]\nroot = "."')
    with pytest.raises(UsageError, match=r"\[data.mer2023\] table. Did you mean MER2023-SEMI\?"):
        workspace.table("mer2023")
    with pytest.raises(UsageError, match=r"no \[data.X\] table. It has no \[data\] table at all"):
        load(tmp_path, "").table("X")


def test_the_only_dataset_needs_no_name(tmp_path: Path) -> None:
    assert load(tmp_path, '[data.A]\nroot = "."').table().name == "A"
    with pytest.raises(UsageError, match=r"It has A, B\. Name one: --dataset"):
        load(tmp_path, '[data.A]\nroot = "."\n[data.B]\nroot = "."').table()


# ---- weights --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("TencentGameMate/chinese-hubert-large", str),  # a hub id
        ("checkpoints/Llama-2-7b-chat-hf", Path),  # a usual folder name, though nothing is there yet
        ("mine/model.pth", Path),  # a weights suffix
        ("here/model", Path),  # a folder of the workspace
        ("./owner/model", Path),
        ("/abs/model", Path),
        ("model", Path),
    ],
)
def test_weights_are_a_path_or_a_hub_id(tmp_path: Path, value: str, expected: type) -> None:
    (tmp_path / "here").mkdir()
    where = load(tmp_path, f'[weights]\nllama = "{value}"').weights_at("llama")
    assert isinstance(where, expected)
    assert load(tmp_path, "").weights_at("llama") is None


# ---- the starter ----------------------------------------------------------------------------------------------------


def test_starter_loads_and_explains_every_key(tmp_path: Path) -> None:
    workspace = load_workspace(write_starter(tmp_path))
    assert list(workspace.data) == ["MER2023-SEMI"]
    assert workspace.store_path.name == "mer2023.emo"
    assert workspace.recipe == "emotion-llama-stage1"
    lines = starter_toml().splitlines()
    for number, line in enumerate(lines):
        if "=" in line.split("#")[0]:
            assert "#" in line or lines[number - 1].startswith("#"), line


def test_a_starter_for_clips_of_ones_own_names_a_recipe_that_needs_labels_alone(tmp_path: Path) -> None:
    workspace = load_workspace(write_starter(tmp_path, "clips", "data", kind="folder"))
    assert workspace.recipe == "attention"
    assert not {"llama", "minigpt_v2"} & set(workspace.weights)


def test_a_workspace_that_cannot_be_written_leaves_no_half_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not UTF-8"):
        write_starter(tmp_path, "clips", "a\udcff", kind="folder")
    assert list(tmp_path.iterdir()) == []


def test_every_commented_key_of_the_starter_is_a_known_one(tmp_path: Path) -> None:
    opened = "\n".join(
        line[2:] if line.startswith("# ") and line[2:].split("=")[0].strip().isidentifier() else line
        for line in starter_toml().splitlines()
    )
    assert opened != starter_toml().rstrip("\n")
    workspace = load(tmp_path, opened)
    assert workspace.extract.faces_every is not None
    assert workspace.table("MER2023-SEMI").faces is not None


def test_starter_takes_any_name_and_root(tmp_path: Path) -> None:
    workspace = load(tmp_path, starter_toml("mein Satz für 情感", 'C:\\a "b"'))
    assert list(workspace.data) == ["mein Satz für 情感"]


def test_starter_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "emo.toml").write_text("# mine\n")
    with pytest.raises(UsageError, match="exists already"):
        write_starter(tmp_path)
    assert (tmp_path / "emo.toml").read_text() == "# mine\n"


def test_starter_needs_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="is a file"):
        write_starter(tmp_path / "file")


def test_starter_names_the_detector_it_is_given_and_else_leaves_it_open(tmp_path: Path) -> None:
    assert load(tmp_path, starter_toml(detector="blazeface")).extract.faces_detector == "blazeface"
    assert load_workspace(write_starter(tmp_path / "plain")).extract.faces_detector == ""
