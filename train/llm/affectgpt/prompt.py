"""Prompts of AffectGPT 2025 as token ids with slots, and its answers; the texts are those of MERTools' `my_affectgpt`.

A setting (`face_or_frame` there) says which clauses a prompt has. Training puts the begin id in front, the official
inference does not, and cuts a prompt that leaves no room for the answer on its left; both go by name:

- `train_consistent`: the begin id, the prompt.
- `official_eval`: the prompt, its left part cut away where prompt and answer are longer than 2,000 ids together.

No torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from emo.featstore.errors import ModelError, UsageError
from emo.train.llm.prompt import Prompt, fill_slots, make_prompt
from emo.train.llm.tokenizer import Tokenizer

LAYOUTS = ("train_consistent", "official_eval")
MAX_LENGTH = 2000  # ids of prompt and answer together in official inference (conversation_video.py, answer_sample)
BEGIN, END, STOP = "<|im_start|>", "<|im_end|>", "###"  # begin and end of Qwen2.5; `###` also ends an answer
PLACES = {  # text of a place -> slot; in the order in which the reference appends them to the tokenizer
    "<ImageHere>": "image",
    "<AudioHere>": "audio",
    "<FrameHere>": "frame",
    "<FaceHere>": "face",
    "<MultiHere>": "multi",
}
_SAMPLE = "uniformly sample raw frames from the video"
_FACES, _FRAMES = (
    f"{_SAMPLE} and extract faces from these frames: <Video><FaceHere></Video>. ",
    (f"{_SAMPLE}: <Video><FrameHere></Video>. "),
)
_HUMAN = "###Human: "
_MULTI = "The audio and video merged info is: <Multi><MultiHere></Multi>. "
_AUDIO = "The audio content is as follows: <Audio><AudioHere></Audio>. "
_IMAGE = "The image content is as follows: <Image><ImageHere></Image>. "
_FACE, _FRAME = f"Meanwhile, we {_FACES}", f"Meanwhile, we {_FRAMES}"
_SAID = "The subtitle of this video is: <Subtitle>{}</Subtitle>. "
_ASK = "Now, please answer my question based on all the provided information. {} ###Assistant: "
# setting -> the clauses before the question (base_dataset.py, get_prompt_for_multimodal)
SETTINGS: dict[str, tuple[str, ...]] = {
    "faceframe": (_HUMAN, _AUDIO, _FRAME, f"Additionally, we {_FACES}", _SAID),
    "face": (_HUMAN, _AUDIO, _FACE, _SAID),
    "frame": (_HUMAN, _AUDIO, _FRAME, _SAID),
    "audioonly": (_HUMAN, _AUDIO),
    "textonly": (_HUMAN, _SAID),
    "faceonly": (_HUMAN, f"We {_FACES}"),
    "frameonly": (_HUMAN, f"We {_FRAMES}"),
    "image": (_HUMAN, _IMAGE),
    "audio_text": (_AUDIO, _SAID),
    "face_text": (f"We {_FACES}", _SAID),
    "frame_text": (f"we {_FRAMES}", _SAID),
    "multiface_text": (_HUMAN, _MULTI, _SAID),
    "multiface_audio_face_text": (_HUMAN, _MULTI, _AUDIO, _FACE, _SAID),
    "multiframe_audio_frame_text": (_HUMAN, _MULTI, _AUDIO, _FRAME, _SAID),
    "multiface_audio_face_frame_text": (_HUMAN, _MULTI, _AUDIO, _FACE, _FRAME, _SAID),
}
# How an answer frames what it says (base_dataset.py, func_get_qa_*): lists of words and single labels, in this form.
FRAME = "The character's emotional state is {}."
VALENCE, SENTIMENT = "The valence score is {:.2f}.", "The character's sentiment state is {}."
PREFERENCE = "The best one is {}."
SAME = "These two sentences describe the content of the video with the same accuracy."
_FRAMED = re.compile(
    r"The (?:character's (?:emotional|sentiment) state|most likely label|valence score|best one) is (.*?)\.?"
)


def slots(setting: str) -> tuple[str, ...]:
    """Return the slots of a setting's prompt, in order."""
    return tuple(PLACES[place] for place in re.findall("|".join(PLACES), "".join(SETTINGS[setting])))


def streams(setting: str) -> tuple[str, ...]:
    """Return the features that a setting needs, of `face`, `frame`, `audio` and `image`; the merged token is of two."""
    found = set(slots(setting))
    if "multi" in found:
        found |= {"audio", "frame" if setting.startswith("multiframe") else "face"}
    return tuple(each for each in ("face", "frame", "audio", "image") if each in found)


def instruction(setting: str, question: str, subtitle: str) -> str:
    """Return the whole prompt of a setting as text.

    Args:
        setting: One of `SETTINGS`.
        question: What is asked.
        subtitle: What the person says; may be empty.
    """
    clauses = (subtitle.join(_SAID.split("{}")) if clause is _SAID else clause for clause in SETTINGS[setting])
    return "".join(clauses) + question.join(_ASK.split("{}"))


def build_prompt(layout: str, setting: str, text: str, tokenizer: Tokenizer, room: int = 0) -> Prompt:
    """Tokenise a prompt, each stretch between the places on its own.

    Args:
        layout: One of `LAYOUTS`.
        setting: Whose places stand in the text.
        text: From `instruction`.
        tokenizer: Of the language model.
        room: Ids that the answer may take; only for `official_eval`.

    Raises:
        UsageError: Unknown layout; or the prompt is so long that the cut would take the place of a feature.
    """
    if layout not in LAYOUTS:
        raise UsageError(f"There is no prompt layout {layout!r}.", f"Layouts: {', '.join(LAYOUTS)}.")
    segments = fill_slots(text, {place: slot for place, slot in PLACES.items() if slot in slots(setting)}, tokenizer)
    if layout == "train_consistent":
        return make_prompt(layout, [[begin_id(tokenizer)], *segments])
    rows = sum(1 if isinstance(each, str) else len(each) for each in segments)
    if (cut := rows + room - MAX_LENGTH) > 0:
        first, *rest = segments
        if isinstance(first, str) or cut > len(first):
            raise UsageError(
                f"A prompt of {rows} ids and an answer of {room} are longer than {MAX_LENGTH}, and what would be cut "
                "off holds a feature.",
                "Give a shorter transcript, or a smaller decode.max_new_tokens.",
            )
        segments = [first[cut:], *rest]
    return make_prompt(layout, segments)


def encode_answer(answer: str, tokenizer: Tokenizer, max_txt_len: int) -> list[int]:
    """Return the ids of an answer and `###`, cut at `max_txt_len`, and the end id."""
    return [*tokenizer.encode(answer + STOP)[:max_txt_len], end_id(tokenizer)]


def begin_id(tokenizer: Tokenizer) -> int:
    """Return the id of `<|im_start|>`; the tokenizer's own begin id where it has none, as that of the tiny model."""
    return _one(tokenizer, BEGIN, tokenizer.bos)


def end_id(tokenizer: Tokenizer) -> int:
    """Return the id of `<|im_end|>`, likewise."""
    return _one(tokenizer, END, tokenizer.eos)


def stop_ids(tokenizer: Tokenizer) -> tuple[tuple[int, ...], ...]:
    """Return the sequences of ids that end an answer: the end id, and `###` in each of its spellings."""
    two, one = tokenizer.encode(STOP[:2]), tokenizer.encode(STOP[:1])
    spellings = (tokenizer.encode(STOP), [*two, *one], [*one, *two])
    return tuple(dict.fromkeys([(end_id(tokenizer),), *map(tuple, spellings)]))


def response(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Return what a model answered, from the ids it generated, as the reference's `answer_sample` does.

    What follows the first begin id counts, up to the first end id and the last `###`; of that, what is behind the last
    `Assistant:`.
    """
    begin, end = begin_id(tokenizer), end_id(tokenizer)
    kept = list(ids)
    if begin in kept:
        kept = kept[kept.index(begin) + 1 :]
        kept = kept[: kept.index(begin)] if begin in kept else kept
    kept = kept[: kept.index(end)] if end in kept else kept
    text, places = "", dict(enumerate(PLACES, tokenizer.vocab_size))
    run: list[int] = []
    for each in kept:  # the reference's tokenizer knows the places by name
        if each in places:
            text, run = text + tokenizer.decode(run) + places[each], []
        else:
            run.append(each)
    text += tokenizer.decode(run)
    text = text.rpartition(STOP)[0] if STOP in text else text
    return text.rpartition("Assistant:")[2].strip()


def words_of(text: str) -> str:
    """Return what an answer says without the sentence around it: `happy, calm`, `sad`, `-0.46`, `a1`; else the text."""
    if text == SAME:
        return "same"
    found = _FRAMED.fullmatch(text)
    return found[1] if found else text


def _one(tokenizer: Tokenizer, piece: str, otherwise: int) -> int:
    ids = tokenizer.encode(piece)
    return ids[0] if len(ids) == 1 else otherwise


def check_tokenizer(tokenizer: Tokenizer, source: str) -> None:
    """Refuse a tokenizer that has only one of the begin and end ids.

    Raises:
        ModelError: It has.
    """
    if (len(tokenizer.encode(BEGIN)) == 1) != (len(tokenizer.encode(END)) == 1):
        raise ModelError(f"The tokenizer of {source} has only one of {BEGIN} and {END}.", "Use that of Qwen2.5.")
