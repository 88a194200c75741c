"""The frame of strongest expression: `all-au` and `label-au`, from a table of action units; and frames by such records.

`all-au` is equation 1 of Emotion-LLaMA (Cheng et al. 2024): the frame with the largest sum of all intensities.
`label-au` sums the units of the label's rule alone, over the frames in which each of them is present.
Where a source gives probabilities in place of intensities, their sum is taken: the number of units to be expected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from emo.extract.annotate.actions import INTENSITIES, PRESENCES, phrases_of, rules
from emo.extract.annotate.units import UnitTable
from emo.extract.frame_choice import BY_RECORDS
from emo.extract.media.reading import FrameTable
from emo.featstore.errors import EmoError, FeatureMissing, MediaError, UsageError
from emo.featstore.spec import EncoderSpec
from emo.featstore.storage.records import record_spec
from emo.featstore.storage.store import Store

RULES = ("all-au", "label-au")
ACTIVE = (
    1.0  # intensity from which a unit counts as active where the source has no presence; OpenFace's scale is 0 to 5
)
RECORD = "peak"


@dataclass(frozen=True)
class PeakOptions:
    """How the frame is chosen. The defaults are equation 1 as it is published, on frames that were tracked.

    Attributes:
        rule: `all-au` or `label-au`.
        leave_out: Action units that do not count, such as those of speech and blinks (AU25, AU26, AU45).
        smooth: Frames of a centred moving average of the intensities; odd, 1 for none.
        confidence: Least confidence of a frame.
        table: Rules of the labels, see `rules.yaml`.
    """

    rule: str = "all-au"
    leave_out: tuple[str, ...] = ()
    smooth: int = 1
    confidence: float = 0.0
    table: str = "merr-2024"

    def __post_init__(self) -> None:
        rules(self.table)
        if self.rule not in RULES:
            raise UsageError(f"There is no rule of peaks {self.rule!r}.", f"Rules: {', '.join(RULES)}.")
        if wrong := [unit for unit in self.leave_out if unit not in PRESENCES]:
            raise UsageError(f"There is no action unit {', '.join(wrong)}.", f"Units: {', '.join(PRESENCES)}.")
        if self.smooth < 1 or self.smooth % 2 == 0:
            raise UsageError(f"{self.smooth} frames cannot be averaged around one.", "Give an odd number, or 1.")
        if not 0 <= self.confidence <= 1:
            raise UsageError(f"{self.confidence} is no confidence.", "It is a number from 0 to 1.")

    def as_all_au(self) -> PeakOptions:
        """Return the same choice by all units, which gives a first label where `label-au` needs one."""
        return replace(self, rule="all-au")

    def spec(self, of: EncoderSpec, labels: str = "") -> EncoderSpec:
        """Return the recipe of the records of this choice.

        Args:
            of: Feature of the action units.
            labels: Where labels come from, under `label-au`.
        """
        decoding = asdict(self) | ({"labels": labels} if self.rule == "label-au" else {})
        return record_spec(RECORD, "peak", "none", decoding=decoding, inputs={"units": of.fingerprint})


@dataclass(frozen=True)
class Peak:
    """The frame of strongest expression of a clip.

    Attributes:
        index: Of the frame, counted from 0.
        time_s: Its time, where the source has times.
        score: The sum that is largest there.
        units: Intensity of each unit there, as the source has it (not smoothed).
        active: Units that are active there, in order; those without a phrase in MERR (AU45) are left out.
    """

    index: int
    time_s: float | None
    score: float
    units: dict[str, float]
    active: tuple[str, ...]


def find_peak(table: UnitTable, options: PeakOptions, label: str | None = None) -> Peak:
    """Return the frame of strongest expression; of equal frames the first.

    Args:
        table: Action units of the clip.
        options: How to choose.
        label: Emotion of the clip, which `label-au` needs.

    Raises:
        MediaError: No frame can be chosen: `no-tracked-frame`, `no-intensities`, `no-rule` of the label or a
            unit of it that the table has not, or `no-frame-with-all-units`.
    """
    usable = usable_frames(table, options.confidence)
    counted = _counted(table, options)
    wanted: Sequence[str] = counted
    if options.rule == "label-au":
        wanted = _units_of(label, options)
        _check_measured(table, wanted, label)
        for unit in wanted:
            usable = usable & _present(table, unit)
        if not usable.any():
            sentence = f"In no frame are {', '.join(wanted)} present together, as the rule of {label} wants."
            raise MediaError("no-frame-with-all-units", sentence, "Choose the peak by all-au.")
        wanted = [unit for unit in wanted if unit in counted] or [unit for unit in wanted if unit in PRESENCES]
    elif not counted:
        raise MediaError("no-intensities", "The table of action units has no intensity or probability that counts.")
    columns = [_strength(table, unit) for unit in wanted]
    sums = np.sum([_smooth(each, options.smooth) for each in columns], axis=0)
    at = int(np.argmax(np.where(usable, sums, -np.inf)))
    times = table.column("time_s")
    return Peak(
        index=int(table.rows[at, table.columns.index("frame")]),
        time_s=None if times is None else round(float(times[at]), 6),
        score=round(float(sums[at]), 4),
        units={unit: round(float(each[at]), 4) for unit in INTENSITIES if (each := table.intensity(unit)) is not None},
        active=tuple(unit for unit in PRESENCES if phrases_of(unit) and _active(table, unit, at)),
    )


def _counted(table: UnitTable, options: PeakOptions) -> list[str]:
    """Return the units that count for `all-au`: those with intensities, or where there are none, probabilities."""
    for of in (table.intensity, table.probability):
        if found := [unit for unit in PRESENCES if of(unit) is not None and unit not in options.leave_out]:
            return found
    return []


def usable_frames(table: UnitTable, confidence: float = 0.0) -> NDArray[np.bool_]:
    """Return which rows (T,) were tracked, with the confidence asked for; what the source does not say is not asked.

    Raises:
        MediaError: None was (`no-tracked-frame`).
    """
    usable = np.ones(len(table.rows), bool)
    if (success := table.column("success")) is not None:
        usable &= success > 0
    if (sure := table.column("confidence")) is not None:
        usable &= sure >= confidence
    if not usable.any():
        sentence = f"No frame of the face was tracked with a confidence of {confidence:g} or more."
        raise MediaError("no-tracked-frame", sentence, "Lower the confidence, or look at the clip.")
    return usable


def _units_of(label: str | None, options: PeakOptions) -> list[str]:
    units = rules(options.table).get(label or "", ())
    wanted = [unit for unit in units if unit not in options.leave_out]
    if not wanted:
        sentence = f"The table of rules {options.table} has no action units for the label {label or '(none)'}."
        raise MediaError("no-rule", sentence, "Choose the peak by all-au.")
    return wanted


def _check_measured(table: UnitTable, units: Sequence[str], label: str | None) -> None:
    lacking = [unit for unit in units if table.intensity(unit) is None and table.presence(unit) is None]
    if lacking:
        sentence = f"The table of action units has no {' and no '.join(lacking)}, which the rule of {label} wants."
        raise MediaError("no-rule", sentence, f"Choose the peak by all-au, or --leave-out {','.join(lacking)}.")


def _strength(table: UnitTable, unit: str) -> NDArray[np.float32]:
    """Return intensities (T,), or probabilities or presences of a unit without them; it has one of them."""
    of = (table.intensity, table.probability, table.presence)
    return next(found for each in of if (found := each(unit)) is not None)


def _present(table: UnitTable, unit: str) -> NDArray[np.bool_]:
    """Return in which frames (T,) a unit is there, by its intensity, or its presence where it has none."""
    found = next(each for of in (table.intensity, table.presence) if (each := of(unit)) is not None)
    return found > 0


def _active(table: UnitTable, unit: str, at: int) -> bool:
    presence, intensity = table.presence(unit), table.intensity(unit)
    if presence is not None:
        return bool(presence[at] > 0)
    return intensity is not None and bool(intensity[at] >= ACTIVE)


def _smooth(values: NDArray[np.float32], width: int) -> NDArray[np.float64]:
    """Return the centred moving average (T,); at the ends, of the frames that there are."""
    if width == 1:
        return values.astype("f8")
    ones = np.ones(width)
    return np.convolve(values, ones, "same") / np.convolve(np.ones(len(values)), ones, "same")


def peak_frames(store: Store | None, name: str) -> FrameTable:
    """Return the frames that peak records name, for encoders of whole images.

    Args:
        store: Where the records are.
        name: `peak`, or `peak@` and the beginning of a fingerprint where there are several choices.

    Raises:
        UsageError: There are none, or several.
    """
    hint = "Run `emo annotate run` first, or name another frame in emo.toml."
    if store is None:
        raise UsageError(f'frame = "{name}" needs records of peaks, and there is no store yet.', hint)
    try:
        spec = store.resolve(name, records=True)
    except FeatureMissing as error:
        raise UsageError(f'frame = "{name}" needs records of peaks, and {store.path} has none.', hint) from error
    except EmoError as error:
        where = 'Name one in emo.toml: frame = "peak@FINGERPRINT".'
        raise UsageError(f'frame = "{name}" means several records: {error.message}', where) from error
    found = store.records(spec)
    indices = {clip: int(value["index"]) for clip, value in found.items()}
    lacking = "There is no record of the peak of clip {clip}."
    return FrameTable(indices, BY_RECORDS + spec.fingerprint, lacking, "Run `emo annotate run` on it.", retry=True)
