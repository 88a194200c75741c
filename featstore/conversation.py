"""One question about one clip and its answer, as ms-swift, LLaMA-Factory and VideoLLaMA2 read conversations."""

from __future__ import annotations

from typing import Any


def conversation(name: str, media: str, question: str, transcript: str, answer: str) -> dict[str, Any]:
    """Return a row of a ShareGPT file: VideoLLaMA2 reads `video`, the other two `videos`, all of them the turns.

    Args:
        name: Of the clip.
        media: Its file.
        question: What is asked.
        transcript: What the person says; empty for none.
        answer: What is to be learned.
    """
    said = f' The person in the video says: "{transcript}".' if transcript else ""
    turns = [{"from": "human", "value": f"<video>\n{question}{said}"}, {"from": "gpt", "value": answer}]
    return {"id": name, "video": media, "videos": [media], "conversations": turns}
