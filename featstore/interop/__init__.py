"""Foreign layouts, in and out: one file per layout, all under one contract (`base.Layout`)."""

from __future__ import annotations

from emo.featstore.interop import emotion_llama, hdf5, mertools, mmsa, parquet, safetensors

# Of two that find the same number of features the first is meant: Emotion-LLaMA's tree is one of MERTools' folders too.
LAYOUTS = {
    each.name: each
    for each in (
        emotion_llama.LAYOUT,
        mertools.LAYOUT,
        hdf5.LAYOUT,
        hdf5.PACKED,
        mmsa.LAYOUT,
        safetensors.LAYOUT,
        parquet.LAYOUT,
    )
}
