"""What a result is worth, in one paragraph for people who know their sample and not the method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .acquisition import MINIMUM_PROJECTIONS, Acquisition
from .checks import NOISY, about, noise_of, noise_share, spoilt
from .images import span
from .metrics import bright
from .numerics import along_z
from .presets import METHODS
from .provenance import found_in, was_denoised
from .reliability import Reliability
from .volume import ProjectionStack

if TYPE_CHECKING:
    from .run import Result

CLOSE_DB = 1.0
"""A difference on hidden projections that says little: between a method and the conservative interpolation the score
reverses truths of up to 0.9 dB on real volumes."""

LEAST_DB = 0.05
"""The least that is a difference in one digit."""

CONTRADICTION = 0.01
"""Of the projections' range (root mean square): a volume that misses them by more, and by more than noise, contradicts
them."""

MIXED = 1 / 3, 2 / 3
"""Shares of noise in the uncertainty: below the first, finer sampling is what helps, above the second more signal."""

UNTOUCHED = 1e-4
"""Differences from the interpolation, over the projections' range, that are those of rounding."""

ROUNDING = 1e-5
"""Of a sigma that was tried, in slices: it is kept with the weights as float32."""

VOXELS = 2**21
"""Medians are taken over so many voxels, about."""


def verdict(
    result: Result,
    stack: ProjectionStack,
    held_out: float | None = None,
    baseline_held_out: float | None = None,
    partial: bool = False,
) -> str:
    """What was measured, what was inferred, how sure that is, and what would help, in one paragraph of plain words.

    Projections that are spoilt are named before that. Every run puts it on record with its volume
    (`provenance.verdict_in`), as it is without a score.

    Parameters
    ----------
    result
        Of a run on ``stack``.
    stack
        (k, y, x), as it was handed to the run.
    held_out, baseline_held_out
        How well hidden projections are predicted, in dB: by the result's method, and by the conservative
        interpolation. None where it was not tried.
    partial
        Whether scoring was stopped before all of them had their turn.
    """
    sentences = [
        f"Unfinished: the run was stopped, and this is {so_far(result, stack)}." if result.partial else "",
        *(f"Beware: {told}." for told in spoilt(stack)),
        f"Beware: {told}." if (told := found_in(result.volume.provenance).get("beware")) else "",
        f"Measured: {_measured(result, stack)}.",
        f"Inferred: {_inferred(stack)}.",
        f"How sure: {_sure(result, stack)}; {_tested(result, held_out, baseline_held_out, partial)}.",
        f"What would help: {helpful}." if (helpful := _helpful(result, stack)) else "",
    ]
    return " ".join(filter(None, sentences))


def so_far(result: Result, stack: ProjectionStack) -> str:
    """What a stopped run leaves: whether it is more than the first picture."""
    rounding = UNTOUCHED * _span(stack.data)
    for y in range(stack.shape[1]):
        interpolated = along_z(stack.interpolation, stack.data[:, y].astype(np.float32))
        if not np.abs(result.volume.data[:, y] - interpolated).max() <= rounding:
            return "what it had by then"
    return "still the conservative interpolation"


def _measured(result: Result, stack: ProjectionStack) -> str:
    acquisition = stack.acquisition
    n, scale = acquisition.slices, stack.volume_scale_um
    if acquisition.single:
        each = f"each a single slice, {acquisition.step} slices apart" if acquisition.step > 1 else "each a slice"
    else:
        mean = "the mean" if acquisition.profile == "uniform" else "a weighted mean"
        deep = f" ({_microns(n * scale[0])} of depth)" if scale else ""
        each = f"each {mean} of {n} slices{deep}"
    span = _span(stack.data)
    typical, worst = (_percent(value / span) for value in (result.residual.rms, result.residual.maximum))
    within = f"{typical} of their intensity range" + (
        f" on average, {worst} at the worst pixel" if worst != typical else ""
    )
    left = f"{len(stack.data)} of " if acquisition.hidden else ""
    text = f"{left}{acquisition.count} projections, {each}; "
    if was_denoised(result.volume.provenance):
        return f"{text}they were denoised first, and the volume differs from what was measured by {within}"
    return f"{text}the volume reproduces them to within {within}"


def _inferred(stack: ProjectionStack) -> str:
    acquisition = stack.acquisition
    count, depth, (gaps, beyond) = len(stack.data), acquisition.depth, acquisition.unseen
    if count == depth:
        return "nothing along the depth, as there is a projection for every slice"
    share = f"{100 * (1 - count / depth):.0f} % of the detail along z is the method's inference"
    if acquisition.single:
        text = f"{depth - count} of {depth} slices were not measured: {share}"
    else:
        text = (
            f"each projection fixes one number per pixel for its {acquisition.slices} slices; "
            f"with {count} numbers for {depth} slices, {share}"
        )
        text += f", and {gaps} slices in the gaps between projections were not seen at all" if gaps else ""
    return text + (f"; {_slices(beyond)} beyond the outermost projection {_is(beyond)} extrapolated" if beyond else "")


def _sure(result: Result, stack: ProjectionStack) -> str:
    found = result.volume.reliability
    return _no_bars(result) if found is None else _bars(result, found, stack.acquisition)


def _no_bars(result: Result) -> str:
    provenance = result.volume.provenance or {}
    told = found_in(provenance) if _gives_reliability(provenance) else {}
    if result.partial or told.get("fell_back"):
        return f"no error bars, as {'the run did not end' if result.partial else 'this is plain interpolation'}"
    if told.get("interval_widening", 1.0) is None:
        return "no error bars, as there are too few projections to test the network on hidden ones"
    return "this method gives no error bars (axial does)"


def _bars(result: Result, found: Reliability, acquisition: Acquisition) -> str:
    inferred = _some_inferred(found.std, acquisition)
    found = Reliability(_some(found.std), _some(found.lower), _some(found.upper))
    span, half = _span(result.volume.data), (found.upper - found.lower) / 2
    method = (result.volume.provenance or {}).get("job", {}).get("method", {})
    around = " of the mean that the volume was drawn around," if method.get("samples") == 1 else ""
    denoised = was_denoised(result.volume.provenance)
    what = "the light of a slice, without noise," if denoised else "what a camera would record of a slice"
    typical, flagged = float(np.median(half[inferred])) / span, float(found.flagged.mean())
    text = (
        f"with 90 % probability {what} lies within ±{_percent(typical)} of the intensity range{around} "
        f"at half of the {'' if inferred.all() else 'inferred '}voxels"
    )
    if denoised:
        text += " (more at small bright spots and thin fibres, which denoising dims)"
    doubtful = float(np.median(half[found.flagged])) / span if flagged else typical
    if _percent(doubtful) == _percent(typical):
        return f"{text}, and no voxels stand out as less certain"
    text += f", within ±{_percent(doubtful)} at half of the least certain {_percent(flagged)} (flagged)"
    shining = bright(_some(result.volume.data)) & inferred
    if not shining.any():
        return text
    there = _percent(float(np.median(half[shining])) / span)
    return f"{text}, and within ±{there} at half of the bright ones (where error bars tend to be too short)"


def _tested(result: Result, held_out: float | None, baseline: float | None, partial: bool) -> str:
    provenance = result.volume.provenance or {}
    what = "hidden projections"
    if held_out is None:
        held_out, baseline = _own_test(result)
        what += ", denoised," if was_denoised(provenance) else ""  # a method knows no others
    if held_out is None:
        return "it has not been tested on hidden projections"
    text = f"it predicts {what} to {held_out:.1f} dB"
    text += " (those that had their turn before the stop)" if partial else ""
    fell_back = _gives_reliability(provenance) and found_in(provenance).get("fell_back")
    if baseline is None or fell_back or provenance.get("method") == "conservative":
        return text
    lead = held_out - baseline
    if lead >= LEAST_DB:
        hardly = "" if lead >= CLOSE_DB else f", though this test tells to about {CLOSE_DB:.0f} dB only"
        return f"{text}, {lead:.1f} dB better than plain interpolation{hardly}"
    if lead <= -CLOSE_DB:
        return f"{text}, {-lead:.1f} dB worse than plain interpolation: prefer the conservative interpolation"
    return (
        f"{text}, no better than plain interpolation ({baseline:.1f} dB) as far as this test can tell, which is to "
        f"about {CLOSE_DB:.0f} dB: if in doubt, prefer the conservative interpolation"
    )


def _gives_reliability(provenance: dict[str, Any]) -> bool:
    """Whether the method gives error bars, where it can."""
    name = provenance.get("method")
    return name in METHODS and METHODS[name][0].gives_reliability


def _prior(result: Result) -> bool:
    """Whether what was found is that of a prior, and the volume another."""
    return bool((result.volume.provenance or {}).get("job", {}).get("method", {}).get("prior"))


def _own_test(result: Result) -> tuple[float | None, float | None]:
    """What a method found by hiding projections on its own, its score and the interpolation's in dB.

    Where the interpolation is given instead, its score alone.
    """
    found = found_in(result.volume.provenance)
    curve, sigma = found.get("sigma_curve"), found.get("sigma_slices")
    if _prior(result) or not curve or sigma is None:
        return None, None
    if not curve[0][0] - ROUNDING <= sigma <= curve[-1][0] + ROUNDING:
        return None, None
    if found.get("fell_back"):
        return found["interpolation_held_out_db"], None
    sigmas, scores = zip(*curve, strict=True)
    return float(np.interp(sigma, sigmas, scores)), found["interpolation_held_out_db"]


def _helpful(result: Result, stack: ProjectionStack) -> str:
    """The one or two things that matter most, by what was measured."""
    acquisition, advice = stack.acquisition, []
    mean, usual = noise_of(stack)
    if result.partial:
        advice.append("letting the run come to its end")
    elif result.residual.rms > max(CONTRADICTION * _span(stack.data), 2 * mean**0.5):
        advice.append("the setting consistency = final, as the volume contradicts the projections by more than noise")
    if len(stack.data) <= MINIMUM_PROJECTIONS:
        advice.append("four or more projections, so that one can be hidden to test the method")
    if acquisition.step > acquisition.slices and not acquisition.single:
        advice.append(f"closing the gaps (a stride of {acquisition.slices} slices or less)")
    apart = noise_share(stack, mean)
    share, of_what = _noise_share(result, stack, usual, apart)
    fixed = acquisition.depth == len(stack.data)  # no slice was inferred: only noise is left
    if share > MIXED[0] or fixed:
        denoise = not was_denoised(result.volume.provenance) and apart >= NOISY
        signal = f"more signal (longer exposure, averaging){' or denoising the projections first' if denoise else ''}"
        advice.append(f"{signal}, as noise makes up {about(share)} of {of_what}")
    if share < MIXED[1] and not fixed and acquisition.step > 1:
        why = "" if share > MIXED[0] else f", as little of {of_what} is noise ({about(share)})"
        advice.append(_finer(stack) + why)
    return "; ".join(advice[:2])


def _finer(stack: ProjectionStack) -> str:
    acquisition = stack.acquisition
    if acquisition.single:
        return f"slices measured closer together than every {acquisition.step}"
    return f"fewer slices per projection than {acquisition.slices} (a shorter beam and smaller steps)"


def _noise_share(result: Result, stack: ProjectionStack, usual: float, apart: float) -> tuple[float, str]:
    """Which share of the uncertainty is noise of the projections, and what it is a share of; in squares.

    With a reliability: of the median voxel's variance, which is that of a slice as it would be measured, the ``usual``
    variance of a single slice. Without, and where that does not count noise any more: ``apart``, see `noise_share`.
    """
    found = result.volume.reliability
    if found is None or was_denoised(result.volume.provenance):
        return apart, "what differs between neighbouring projections"
    of_a_slice = usual * stack.acquisition.effective_slices
    std = _some(found.std)[_some_inferred(found.std, stack.acquisition)]
    return min(of_a_slice / max(float(np.median(std)) ** 2, 1e-30), 1.0), "the uncertainty"


def _some(voxels: NDArray[Any]) -> NDArray[Any]:
    """Enough for a median, spread over the volume: an odd step apart, so that they are not all of one column."""
    return voxels.reshape(-1)[:: _apart(voxels)]


def _apart(voxels: NDArray[Any]) -> int:
    return (voxels.size // VOXELS) | 1


def _some_inferred(voxels: NDArray[Any], acquisition: Acquisition) -> NDArray[np.bool_]:
    """Which of `_some` lie in slices that were inferred."""
    z = np.arange(0, voxels.size, _apart(voxels)) // voxels[0].size
    return np.asarray(acquisition.inferred[z])


def _span(data: NDArray[Any]) -> float:
    return max(span(data), 1e-30)


def _microns(length: float) -> str:
    return f"{length:.3g} µm" if length < 1000 else f"{length:.0f} µm"


def _percent(share: float) -> str:
    """Two digits, without pretending to more: ``0.01 %`` at least, ``0.35 %``, ``12 %``."""
    percent = max(100 * share, 0.01)
    return f"{percent:.2g} %" if percent < 99.5 else f"{percent:.0f} %"


def _slices(count: int) -> str:
    return "1 slice" if count == 1 else f"{count} slices"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"
