"""What one cell of a table means."""

from __future__ import annotations

import pytest

from emo.featstore.datasets.cells import cell_text, held_out, is_missing, label_word, split_name, visible

NOT_ANNOTATED = """
nan|NaN|NAN|NA|N/A|n.a.|#N/A|<NA>|None|NULL|nil|-|--|—|?|??|.|...|…|_|/|*|unknown|Unknown|UNK|missing|undefined|unlabeled
Not_Annotated|not-annotated|no label|TBD|(null)|[]|#REF!|\ufeffnan|n\u200ban|\u00a0|\u3000|ｎａｎ|？|未标注|| ""|\\N
"""


@pytest.mark.parametrize("text", NOT_ANNOTATED.strip("\n").replace("\n", "|").split("|"))
def test_what_is_written_for_nothing_is_not_annotated(text: str) -> None:
    assert is_missing(text)
    assert label_word(text) is None
    assert cell_text(text) is None


@pytest.mark.parametrize(
    "text", ["happy", "0", "-1", "other", "neutral", "none of these", "n", "nana", "nah", "高兴", "x-", "a/b"]
)
def test_other_words_are_classes(text: str) -> None:
    assert label_word(text) == text


def test_a_declared_class_is_a_class_whatever_it_looks_like() -> None:
    assert label_word("None", ["happy", "none"]) == "none"
    assert label_word("unknown", ["Unknown"]) == "unknown"
    assert label_word("nan", ["none"]) is None


@pytest.mark.parametrize(
    ("word", "spellings"),
    [
        (
            "happy",
            [
                "Happy",
                "HAPPY",
                "\ufeffhappy",
                "hap\u200bpy",
                "\u00a0happy\u3000",
                "ｈａｐｐｙ",
                "hap\u00adpy",
                "happy\u2060",
            ],
        ),
        ("very sad", ["very  sad", "very\u00a0sad", "very\u3000sad", " very\tsad "]),
        ("0", ["0", "0.0", "0.00", "０", "0．0"]),
        ("10", ["10", "10.0"]),
        ("1.5", ["1.5"]),
    ],
)
def test_words_that_look_alike_are_one_class(word: str, spellings: list[str]) -> None:
    assert {label_word(each) for each in spellings} == {word}


def test_signs_that_nobody_sees_are_left_out() -> None:
    assert visible("\ufeff a\u200b\u00a0 b\x00\u202e ") == "a b"
    assert visible("\ud800a") == "a"  # half a character, which no file can hold
    assert cell_text(" Ann ") == "Ann"


HELD_OUT = """
test Test3 test3_corpus test-semi test_candidates testset tst val val_corpus valid validation valid1 valset dev
dev_corpus
devel development eval Evaluation held_out held-out heldout holdout hold_out unseen my_test MELD-dev 测试集 验证 １
"""
TRAINED_ON = """
train train_corpus Training train_val trainval unlabelled ovmerd mercaptionplus human session1 actor01 fold3 emoprefer
device valence contest 0 7 labelled 训练集
"""


@pytest.mark.parametrize("split", HELD_OUT.split())
def test_names_of_parts_that_nobody_trains_on(split: str) -> None:
    assert held_out(split)


@pytest.mark.parametrize("split", ["", *TRAINED_ON.split()])
def test_names_of_parts_that_are_trained_on(split: str) -> None:
    assert not held_out(split)


def test_numbers_are_codes_or_folds() -> None:
    assert [held_out(each, ["0", "1"]) for each in "01"] == [False, True]
    assert [held_out(each, ["0", "1", "2", ""]) for each in "012"] == [False, True, True]
    assert not any(held_out(each, ["1", "2", "3", "4", "5"]) for each in "12345")
    assert not any(held_out(each, ["0", "1", "2", "3"]) for each in "0123")
    assert not any(held_out(each, ["1", "2"]) for each in "12")


def test_split_names_are_compared_without_case_suffix_and_invisible_signs() -> None:
    assert {split_name(each) for each in ("test3", "Test3_corpus", "\ufefftest3 ", "ｔｅｓｔ3")} == {"test3"}
