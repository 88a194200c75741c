"""The words that a prompt says are spoken in a clip: one rule for training, validation and asking."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from emo.featstore.clip import Clip


def spoken_of(clip: Clip, language: str, written: Callable[[], str]) -> str:
    """Return what is said in a clip; empty where nobody wrote it down.

    Args:
        clip: Its own transcript counts most, in this language or in none that is stated. An empty one in none that is
            stated says that nothing is said.
        language: Of the recipe.
        written: Gives what the files of the recipe say of the clip, see `texts_of`; called only where they count.
    """
    own = (clip.transcripts.get(language) or clip.transcripts.get("text") or "").strip()
    return own if own or "text" in clip.transcripts else " ".join(written().split())


def texts_of(
    language: str, annotated: Iterable[Mapping[str, str | None]], tables: Iterable[Mapping[str, Mapping[str, str]]]
) -> dict[str, str]:
    """Return transcripts by clip as the files of a recipe have them.

    Args:
        language: Of the recipe.
        annotated: Transcripts in each source of annotations, in the order of the recipe; the first of a clip counts.
        tables: What `transcript_csv` reads of each file of `data.transcripts`, in their order; the last one counts
            most, and all of them more than annotations.
    """
    texts: dict[str, str] = {}
    for found in annotated:
        for name, text in found.items():
            if text:
                texts.setdefault(name, text)
    for table in tables:
        for name, said in table.items():
            if text := said.get(language) or said.get("text"):
                texts[name] = text
    return texts
