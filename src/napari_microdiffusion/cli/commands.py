"""What each command does, apart from its options: values in, lines and JSON-ready values out."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .. import io
from ..acquisition import Acquisition
from ..descriptions import duration, in_microns
from ..events import InvalidInput, RunFailed
from ..numbering import numbers_of
from ..presets import name_of
from ..provenance import found_in, verdict_in, was_denoised, was_reconstructed
from ..run import Result, run
from ..trained import save_trained
from ..verdict import so_far
from .console import INTERRUPTED, Interrupt, follow, note
from .jobs import Options, Prepared, prepare

PREVIEW_SECONDS = 15.0
"""Previews are what an interrupted run leaves; nobody watches them here, so they may be rare."""


def simulated(
    truth: Path,
    output: Path | None,
    acquisition: Acquisition | None,
    truth_out: Path | None,
    channel: int | None,
    time: int | None,
    overwrite: bool,
) -> tuple[list[str], dict[str, Any]]:
    """Project a volume and save the projections, and the part of the volume they cover if asked for."""
    if acquisition is None:
        raise InvalidInput("give --slices, the slices that one projection stands for")
    if output is None:
        raise InvalidInput("give -o, where to write the projections")
    if truth_out is not None and truth_out.resolve() == output.resolve():
        raise InvalidInput("-o and --truth-out are the same file")
    for path in (output, truth_out):
        if path is not None:
            io.check_distinct(path, truth)
            io.check_output(path, 0, overwrite)
    io.inspect(truth).check_volume(truth.name, "they are simulated from fully sampled volumes")
    volume = io.read_volume(truth, channel, time)
    if was_reconstructed(volume.provenance):
        note(f"note: {volume.name} was itself reconstructed: it is no ground truth")
    stack, covered = volume.simulate(acquisition)
    stack.check()
    if truth_out is not None:
        io.check_output(truth_out, covered.data.nbytes, overwrite)
    io.write_projections(stack, output, overwrite=overwrite)
    if truth_out is not None:
        io.write_volume(covered, truth_out, overwrite=overwrite)
    dropped = volume.shape[0] - covered.shape[0]
    lines = [f"{output}: {len(stack.data)} projections, {stack.acquisition.description}"]
    if dropped:
        lines.append(f"the last {dropped} of {volume.shape[0]} slices do not fill a projection and were dropped")
    if truth_out is not None:
        lines.append(f"{truth_out}: the {covered.shape[0]} slices that the projections cover")
    values = {
        "projections": str(output.resolve()),
        "truth": None if truth_out is None else str(truth_out.resolve()),
        "shape": stack.shape,
        "dropped_slices": dropped,
        "acquisition": stack.acquisition.model_dump(mode="json"),
    }
    return lines, values


def reconstructed(options: Options) -> tuple[list[str], dict[str, Any], int]:
    """Run a job and save the volume; lines, values and the exit code."""
    prepared = prepare(options)
    for notice in prepared.notices:
        note(f"note: {notice}")
    interrupt = Interrupt()
    with interrupt.listening():
        result = _run(prepared, interrupt)
        exported, saved = _written(options, prepared, result)
    if options.save_weights is not None and saved is None:
        note(f"note: the weights were not saved to {options.save_weights}: the run was stopped before its end")
    _compare_inputs(prepared, result)
    values = _summary(prepared, result, exported, saved)
    return _lines(prepared, result, exported, saved), values, INTERRUPTED if result.partial else 0


def demonstrated(projections: Path | None, acquisition: Acquisition | None) -> int:
    """Open the demo; its exit code."""
    if find_spec("napari") is None:
        raise InvalidInput("the demo needs napari: pip install 'napari-microdiffusion[gui]'")
    if projections is None and acquisition is not None:
        raise InvalidInput(
            "--slices, --stride, --profile and --fwhm describe your own projections: give their file too"
        )
    if projections is not None and acquisition is None and io.written_acquisition(projections) is None:
        raise InvalidInput(f"{projections.name} does not say how its projections were made: give --slices")
    from ..plugin.demo import main

    return int(main(projections, acquisition))


def _run(prepared: Prepared, interrupt: Interrupt) -> Result:
    events = run(
        prepared.job,
        prepared.stack,
        weights=prepared.weights,
        volumes=() if prepared.trained is None else prepared.trained.origin.volumes,
        cancelled=interrupt,
        preview_seconds=PREVIEW_SECONDS,
    )
    return follow(events)


def _written(options: Options, prepared: Prepared, result: Result) -> tuple[io.Exported, Path | None]:
    """Write the weights, if they are to be kept, and the volume: neither is lost where the other cannot be written."""
    saved, failure = None, None
    if options.save_weights is not None and not result.partial:
        try:
            saved = _save_weights(options.save_weights, prepared, result, options.overwrite)
        except (InvalidInput, RunFailed) as error:
            failure = error
    output = io.unfinished(prepared.output) if result.partial else prepared.output
    if output != prepared.output:
        note(f"note: {prepared.output.name} stays as it was, as the run was stopped before its end")
    try:
        exported = io.write_volume(result.volume, output, dtype=options.dtype, overwrite=options.overwrite)  # type: ignore[arg-type]
    except (InvalidInput, RunFailed):
        if saved is not None:
            note(f"note: the weights are in {saved}: --weights {saved} makes the volume again without training")
        raise
    if failure is not None:
        note(f"note: the volume is in {exported.path}")
        raise failure
    return exported, saved


def _save_weights(path: Path, prepared: Prepared, result: Result, overwrite: bool) -> Path:
    """The weights with what they were trained on."""
    method, denoised = prepared.job.method, was_denoised(result.volume.provenance)
    return save_trained(path, method, result.weights, prepared.stack, overwrite, prepared.trained, denoised)


def _compare_inputs(prepared: Prepared, result: Result) -> None:
    """Say what a replayed job was run on before and is not now."""
    now = result.volume.provenance or {}
    for key, what in (("input_sha256", "projections"), ("weights_sha256", "weights")):
        before = prepared.record.get(key)
        if before is not None and now.get(key) != before:
            note(f"note: these {what} are not the ones that the job was run on before: the result differs")


def _summary(prepared: Prepared, result: Result, exported: io.Exported, saved: Path | None) -> dict[str, Any]:
    provenance = result.volume.provenance or {}
    return {
        "output": str(exported.path),
        "reliability": None if exported.reliability is None else str(exported.reliability),
        "method": name_of(prepared.job.method),
        "complete": not result.partial,
        "shape": result.volume.shape,
        "scale_um": result.volume.scale_um,
        "acquisition": prepared.stack.acquisition.model_dump(mode="json"),
        "seconds": round(result.seconds, 3),
        "seed": prepared.job.seed,
        "device": provenance.get("device"),
        "residual_max": result.residual.maximum,
        "residual_rms": result.residual.rms,
        "found": found_in(provenance),
        "verdict": verdict_in(provenance),
        "mapping": exported.mapping,
        "weights": None if saved is None else str(saved),
    }


def _instead(prepared: Prepared, result: Result) -> str:
    """Said where the volume is not yet, or not at all, what the method's name promises."""
    if result.partial:
        return f": this is {so_far(result, prepared.stack)}"
    if found_in(result.volume.provenance).get("fell_back"):
        return ": the conservative interpolation is given instead (see the note)"
    return ""


def _lines(prepared: Prepared, result: Result, exported: io.Exported, saved: Path | None) -> list[str]:
    z, y, x = result.volume.shape
    state = "PARTIAL, stopped" if result.partial else "done"
    residual = result.residual
    acquisition = prepared.stack.acquisition
    numbers, what = numbers_of(acquisition.hidden), "projections" if len(acquisition.hidden) > 1 else "projection"
    size = result.volume.scale_um
    voxels = "voxel size unknown" if size is None else f"voxels of {in_microns(size)}"
    lines = [
        f"{exported.path}: {z} x {y} x {x} (z, y, x), {voxels}",
        f"{name_of(prepared.job.method)}, {state} after {duration(result.seconds)}{_instead(prepared, result)}",
        f"of {len(prepared.stack.data)} projections: {acquisition.description}",
        *([f"without {what} {numbers} of {acquisition.count} (counted from 1)"] if numbers else []),
        f"reprojection residual: {residual.rms:.3g} rms, {residual.maximum:.3g} at most, in the input's intensities"
        + (", before the export's mapping" if exported.mapping else "")
        + ("; what was taken for noise is part of it" if was_denoised(result.volume.provenance) else ""),
    ]
    if exported.reliability is not None:
        lines.append(f"{exported.reliability}: how certain each voxel is (standard deviation, 90 % interval)")
    if curve := found_in(result.volume.provenance).get("sigma_curve"):
        tried = ", ".join(f"{sigma:g}: {score:.1f}" for sigma, score in curve)
        lines.append(f"hidden projections by axial blur, in slices and dB: {tried}")
    lines += [exported.mapping] if exported.mapping else []
    lines += [f"{saved}: the trained weights"] if saved else []
    return [*lines, verdict_in(result.volume.provenance)]
