"""Judges: an endpoint that misbehaves in every way, a recording that is never asked twice, a local model."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from emo.featstore.errors import ModelError, TrainError, UsageError
from emo.featstore.sources.chat import ATTEMPTS, HttpChat, Recorded
from emo.train.metrics.emer import emer_page
from emo.train.metrics.judges import LocalChat, find_chat

SLOW_S = 0.6


class Stub:
    """A chat endpoint on this machine that plays a list of acts, one per request, and remembers what it was asked."""

    def __init__(self) -> None:
        self.acts: list[Any] = []
        self.asked: list[dict[str, Any]] = []
        stub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                stub.asked.append({**body, "path": self.path, "key": self.headers.get("Authorization")})
                act = stub.acts.pop(0)
                if act == "slow":
                    time.sleep(SLOW_S)
                    act = "too late"
                elif act == "hang up":
                    self.connection.close()
                    return
                status, headers = (act[0], act[1]) if isinstance(act, tuple) else (200, {})
                reply = {"choices": [{"message": {"content": act}}]}
                text = "<html>" if act == "no json" else json.dumps({} if act == "no choices" else reply)
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass  # nobody waits any more

            def log_message(self, *args: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def stub() -> Iterator[Stub]:
    made = Stub()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def chat(stub: Stub, waits: list[float]) -> HttpChat:
    return HttpChat(stub.url, "judge-1", "secret", timeout_s=SLOW_S / 3, sleep=waits.append)


def test_one_message_at_temperature_zero(stub: Stub, chat: HttpChat) -> None:
    stub.acts = ["'score': 7"]
    assert chat.reply("How far?", 3) == "'score': 7"
    assert stub.asked == [
        {
            "model": "judge-1",
            "messages": [{"role": "user", "content": "How far?"}],
            "temperature": 0,
            "seed": 3,
            "path": "/v1/chat/completions",
            "key": "Bearer secret",
        }
    ]
    assert "secret" not in repr(chat)


@pytest.mark.parametrize(
    "trouble", ["slow", (429, {}), (500, {}), (503, {}), "hang up", "no json", "no choices", "", "   ", None]
)
def test_trouble_that_may_pass_is_tried_again(stub: Stub, chat: HttpChat, waits: list[float], trouble: Any) -> None:
    stub.acts = [trouble, trouble, "8"]
    assert chat.reply("How far?", 0) == "8"
    assert waits == [1.0, 2.0]


def test_the_wait_is_as_long_as_the_endpoint_asks_but_bounded(stub: Stub, chat: HttpChat, waits: list[float]) -> None:
    stub.acts = [(429, {"Retry-After": "7"}), (429, {"Retry-After": "86400"}), (429, {"Retry-After": "soon"}), "8"]
    assert chat.reply("How far?", 0) == "8"
    assert waits == [7.0, 60.0, 4.0]


def test_it_does_not_try_for_ever(stub: Stub, chat: HttpChat, waits: list[float]) -> None:
    stub.acts = [(500, {})] * 99
    with pytest.raises(TrainError, match=f"no answer in {ATTEMPTS} attempts; the last one: status 500"):
        chat.reply("How far?", 0)
    assert (len(stub.asked), len(waits)) == (ATTEMPTS, ATTEMPTS - 1)
    stub.acts = [""] * 99
    assert chat.reply("How far?", 0) == ""  # silence is an answer too, and a rejected one


def test_a_refusal_is_told_at_once(stub: Stub, chat: HttpChat, waits: list[float]) -> None:
    stub.acts = [(401, {})]
    with pytest.raises(UsageError, match="refuses model judge-1: status 401") as caught:
        chat.reply("How far?", 0)
    assert "secret" not in str(caught.value)
    assert waits == []


def test_nobody_at_the_address(waits: list[float]) -> None:
    with pytest.raises(TrainError, match="no answer in 5 attempts"):
        HttpChat("http://127.0.0.1:9", "judge-1", sleep=waits.append).reply("How far?", 0)


def test_only_clear_scores_of_such_an_endpoint_count(stub: Stub, chat: HttpChat, tmp_path: Path) -> None:
    """`10` is ten; prose and silence are no scores; what was said is kept, so that a second run asks nothing."""
    texts = {"a": "He is happy.", "b": "She is sad.", "c": "He is angry."}
    stub.acts = [(429, {}), "10", "They overlap to some degree.", *[""] * ATTEMPTS]
    pages = [emer_page(texts, texts, Recorded(tmp_path / "r.jsonl", chat), kinds=("clue",)) for _ in range(2)]
    found = pages[0].value["clue_overlap"]
    assert (found["mean"], found["n"], found["rejected"], found["judge"]) == (10, 1, 2, "judge-1")
    assert found["rejected_examples"] == {"b": "They overlap to some degree.", "c": ""}
    assert pages[0] == pages[1]
    assert stub.acts == []


# ---- recordings ------------------------------------------------------------------------------------------------------


class Counting:
    """A model that counts."""

    def __init__(self, id_: str = "counting") -> None:
        self.id, self.count = id_, 0

    def reply(self, prompt: str, seed: int) -> str:
        self.count += 1
        return f"answer {self.count}"


def test_what_is_recorded_is_not_asked_again(tmp_path: Path) -> None:
    model = Counting()
    first = Recorded(tmp_path / "r.jsonl", model)
    assert [first.reply("一", 0), first.reply("一", 0), first.reply("一", 1)] == ["answer 1", "answer 1", "answer 2"]
    again = Recorded(tmp_path / "r.jsonl", model)
    assert (again.reply("一", 1), again.asked, model.count) == ("answer 2", 0, 2)
    other = Recorded(tmp_path / "r.jsonl", Counting("another"))
    assert (other.reply("一", 0), other.asked) == ("answer 1", 1)  # another model's replies are not this one's


def test_a_recording_alone_replays_and_never_invents(tmp_path: Path) -> None:
    Recorded(tmp_path / "r.jsonl", Counting()).reply("known", 0)
    replay = find_chat(f"replay:{tmp_path}/r.jsonl")
    assert (replay.id, replay.reply("known", 0)) == ("counting", "answer 1")
    with pytest.raises(UsageError, match="has no reply of counting to this prompt"):
        replay.reply("unknown", 0)
    Recorded(tmp_path / "r.jsonl", Counting("another")).reply("known", 0)
    with pytest.raises(UsageError, match="has replies of another, counting"):
        find_chat(f"replay:{tmp_path}/r.jsonl")
    assert find_chat(f"replay:{tmp_path}/r.jsonl#another").id == "another"


def test_a_line_cut_off_by_a_crash_is_asked_again_and_damage_elsewhere_is_told(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    one = Recorded(path, Counting())
    one.reply("a", 0)
    one.reply("b", 0)
    whole = path.read_text()
    path.write_text(whole[:-9])
    model = Counting()
    again = Recorded(path, model)
    assert (again.reply("a", 0), again.reply("b", 0), model.count) == ("answer 1", "answer 1", 1)
    assert find_chat(f"replay:{path}").reply("b", 0) == "answer 1"
    path.write_text("{}\n" + whole)
    with pytest.raises(UsageError, match="line 1 is no recorded reply"):
        Recorded(path, model)


@pytest.mark.parametrize("text", ["gpt", "http://host/v1", "hf:", "replay:", "", "ftp://host#model"])
def test_what_is_no_judge_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is no judge"):
        find_chat(text)


def test_an_endpoint_takes_its_key_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EMO_JUDGE_KEY", "from-the-environment")
    found = find_chat("https://host:8000/v1#org/model")
    assert isinstance(found, HttpChat)
    assert (found.url, found.id, found.key) == ("https://host:8000/v1", "org/model", "from-the-environment")
    cached = find_chat("https://host/v1#m", tmp_path / "cache.jsonl")
    assert isinstance(cached, Recorded)
    assert cached.id == "m"


# ---- a model on this machine -----------------------------------------------------------------------------------------


def test_a_local_model_answers_the_same_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("emo.train.metrics.judges.MAX_NEW_TOKENS", 8)
    tokenizers = pytest.importorskip("tokenizers")
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = {word: i for i, word in enumerate(["<unk>", "</s>", "how", "far", *map(str, range(1, 11))])}
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "<unk>"))
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=1024, **size, eos_token_id=1, bos_token_id=1)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    chat = find_chat(f"hf:{tmp_path}")
    assert isinstance(chat, LocalChat)
    answer = chat.reply("how far", 0)
    assert answer == LocalChat(str(tmp_path)).reply("how far", 1)
    with pytest.raises(ModelError, match="cannot be loaded"):
        LocalChat(str(tmp_path / "nothing")).reply("how far", 0)
