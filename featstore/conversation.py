"""One question about one clip and its answer, as ms-swift, LLaMA-Factory and VideoLLaMA2 read conversations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emo.featstore.datasets.tables import AUDIO_SUFFIXES


def conversation(name: str, media: str, question: str, transcript: str, answer: str) -> dict[str, Any]:
    """Return a row of a ShareGPT file: VideoLLaMA2 reads `video`, the other two `videos`, all of them the turns.

    A sound file stands under `audio` and `audios`, with the tag `<audio>`: as a video none of them can read it.

    Args:
        name: Of the clip.
        media: Its file.
        question: What is asked.
        transcript: What the person says; empty for none.
        answer: What is to be learned.
    """
    kind = "audio" if Path(media).suffix.lower() in AUDIO_SUFFIXES else "video"
    place = " in the video" if kind == "video" else ""
    said = f' The person{place} says: "{transcript}".' if transcript else ""
    turns = [{"from": "human", "value": f"<{kind}>\n{question}{said}"}, {"from": "gpt", "value": answer}]
    return {"id": name, kind: media, f"{kind}s": [media], "conversations": turns}
