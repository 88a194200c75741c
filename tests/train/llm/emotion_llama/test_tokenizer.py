"""Text to ids and back: LLaMA-2's own file, tokenizer.json alone, GGUF, and bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emo.featstore.errors import ModelError, WeightsMissing
from emo.train.llm.tokenizer import Tokenizer

TEXTS = (
    "[INST] <video>",
    "</feature> The person in video says: I won't go!.  [emotion] Please determine which.  [/INST]",
    "  two  spaces   and more \n and 嗯。 ☺ 123",
    "",
)


@pytest.fixture(scope="module")
def model_file(shared: Path) -> Path:
    return shared / "data" / "llama2_tokenizer" / "tokenizer.model"


@pytest.fixture(scope="module")
def llama(model_file: Path) -> Tokenizer:
    return Tokenizer.from_file(model_file)


@pytest.fixture(scope="module")
def pieces(model_file: Path) -> list[tuple[str, float, int]]:
    """Piece, score and type of every id; the types are those of SentencePiece and of GGUF."""
    import sentencepiece

    sp = sentencepiece.SentencePieceProcessor(model_file=str(model_file))

    def kind(i: int) -> int:
        return 2 if sp.is_unknown(i) else 3 if sp.is_control(i) else 6 if sp.is_byte(i) else 1

    return [(sp.id_to_piece(i), sp.get_score(i), kind(i)) for i in range(sp.get_piece_size())]


def test_llama_2_ids(llama: Tokenizer) -> None:
    assert (llama.bos, llama.eos, llama.unk, llama.pad, llama.vocab_size) == (1, 2, 0, 3997, 32000)
    assert llama.encode("[INST] <video>") == [518, 25580, 29962, 529, 9641, 29958]
    assert llama.encode("happy</s>") == [9796, 2]
    assert llama.encode("<s>[INST] <video>", bos=True) == [1, 1, 518, 25580, 29962, 529, 9641, 29958]


def test_two_spaces_before_a_word(llama: Tokenizer) -> None:
    assert llama.encode("fine.  [emotion]")[-5:] == [29871, 518, 331, 8194, 29962]


def test_decoding_leaves_special_ids_out_wherever_they_are(llama: Tokenizer) -> None:
    assert llama.decode([0, 1, 14610, 3997, 2, 9796, 2]) == "sad happy"
    assert llama.decode([9796, 32005]) == "happy", "models may have more ids than the tokenizer"


def test_a_folder_with_only_tokenizer_json_gives_the_same_ids(
    llama: Tokenizer, pieces: list[tuple[str, float, int]], tmp_path: Path
) -> None:
    ids = {piece: i for i, (piece, _, _) in enumerate(pieces)}
    splits = [
        (score, piece[:cut], piece[cut:])
        for piece, score, kind in pieces
        for cut in range(1, len(piece))
        if kind == 1 and piece[:cut] in ids and piece[cut:] in ids
    ]
    merges = [[left, right] for _, left, right in sorted(splits, key=lambda each: -each[0])]
    table = {
        "version": "1.0",
        "added_tokens": [
            {"id": i, "content": pieces[i][0], "special": True, "normalized": False, "single_word": False,
             "lstrip": False, "rstrip": False} for i in range(3)
        ],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"},
            {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True, "vocab": ids,
                  "merges": merges},
    }  # fmt: skip
    (tmp_path / "tokenizer.json").write_text(json.dumps(table), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}}))
    fast = Tokenizer.from_folder(tmp_path)
    assert (fast.bos, fast.eos, fast.unk, fast.pad) == (1, 2, 0, 3997)
    for text in TEXTS:
        assert fast.encode(f"<s>{text}</s>") == llama.encode(f"<s>{text}</s>")
        assert fast.decode(fast.encode(text)) == llama.decode(llama.encode(text))


def test_the_tokenizer_inside_a_gguf(llama: Tokenizer, pieces: list[tuple[str, float, int]], tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "llama.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([piece for piece, _, _ in pieces])
    writer.add_token_scores([score for _, score, _ in pieces])
    writer.add_token_types([kind for _, _, kind in pieces])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    inside = Tokenizer.from_file(tmp_path / "llama.gguf")
    assert (inside.bos, inside.eos, inside.unk, inside.pad) == (1, 2, 0, 3997)
    for text in TEXTS:
        assert inside.encode(f"{text}</s>") == llama.encode(f"{text}</s>")


@pytest.mark.parametrize(("pre", "known"), [("smollm", True), ("qwen2", False)])
def test_gpt2_merges_inside_a_gguf(pre: str, known: bool, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(["<|end|>", "<|start|>", "h", "i", "Ġ", "1", "hi", "Ġhi", "11"])
    writer.add_token_merges(["h i", "Ġ hi", "1 1"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    if not known:
        with pytest.raises(ModelError, match=r"qwen2.*tokenizer\.json beside"):
            Tokenizer.from_file(tmp_path / "small.gguf")
        return
    small = Tokenizer.from_file(tmp_path / "small.gguf")
    assert small.encode("<s>hi hi11</s>") == [1, 6, 7, 5, 5, 0], "digits stand alone"
    assert small.pad == small.eos == 0
    assert small.decode([6, 7, 0]) == "hi hi"


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=40).filter(lambda text: "<s>" not in text and "</s>" not in text and "$$" not in text))
def test_bytes_come_back_as_they_went(text: str) -> None:
    tokenizer = BYTES
    assert tokenizer.decode(tokenizer.encode(text, bos=True)) == text
    assert max(tokenizer.encode(text), default=0) < tokenizer.vocab_size == 260


BYTES = Tokenizer.bytes()


def test_bytes_know_the_named_ids() -> None:
    assert (BYTES.unk, BYTES.bos, BYTES.eos, BYTES.pad) == (0, 1, 2, 3)
    assert BYTES.encode("<s>a</s>")[::2] == [1, 2]


def test_saved_and_read_again(llama: Tokenizer, tmp_path: Path) -> None:
    for i, tokenizer in enumerate((llama, BYTES)):
        folder = tmp_path / str(i)
        folder.mkdir()
        tokenizer.save(folder)
        again = Tokenizer.from_folder(folder)
        assert again.fingerprint == tokenizer.fingerprint
        assert again.encode(TEXTS[1] + "</s>", bos=True) == tokenizer.encode(TEXTS[1] + "</s>", bos=True)
    assert llama.fingerprint != BYTES.fingerprint


def test_a_tokenizer_model_of_another_kind_gives_way_to_tokenizer_json(tmp_path: Path) -> None:
    BYTES.save(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"bm90 U2VudGVuY2VQaWVjZQ==\n")  # Llama 3's is a table of base64
    assert Tokenizer.from_folder(tmp_path).fingerprint == BYTES.fingerprint


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match=r"no tokenizer: none of tokenizer\.model, tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    with pytest.raises(WeightsMissing, match="no tokenizer at"):
        Tokenizer.from_file(tmp_path / "tokenizer.model")
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelError, match=r"is no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="no SentencePiece model"):
        Tokenizer.from_file(tmp_path / "tokenizer.model")
    (tmp_path / "x.gguf").write_bytes(b"nothing at all, but long enough to be looked at")
    pytest.importorskip("gguf")
    with pytest.raises(ModelError, match="no GGUF file"):
        Tokenizer.from_file(tmp_path / "x.gguf")
