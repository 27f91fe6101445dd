"""The command line: a thin face over the engine. Everything heavy is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from .console import Reporting, print_json

app = typer.Typer(
    cls=Reporting,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Depth-resolved volumes from axial projections. Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.",
)

Output = Annotated[Path | None, typer.Option("-o", "--output", help="where to write: .ome.tif or .ome.zarr")]
Slices = Annotated[int | None, typer.Option(help="slices that one projection stands for; files of ours know it")]
Stride = Annotated[int | None, typer.Option(help="slices between the starts of two projections; default: slices")]
Profile = Annotated[
    str | None, typer.Option(help="axial weights: uniform, gaussian, point, or a CSV file of measured weights")
]
Fwhm = Annotated[
    float | None, typer.Option(help="full width at half maximum of the gaussian profile, in slices; default: slices")
]
Channel = Annotated[int | None, typer.Option(help="channel, counted from 0, where the file has several")]
Time = Annotated[int | None, typer.Option(help="time point, counted from 0, where the file has several")]
TimeOrAll = Annotated[
    str | None,
    typer.Option(
        metavar="NUMBER",
        help="time point, counted from 0, where the file has several; all: each into a file of its own, with the "
        "network of the first where the method allows it",
    ),
]
VoxelSize = Annotated[
    str | None, typer.Option(metavar="Z,Y,X", help="voxel size of the volume in µm; default: as the file says")
]
LeaveOut = Annotated[
    str | None, typer.Option(metavar="NUMBERS", help="projections not to be used, counted from 1: 3 or 3,7-9")
]
Denoise = Annotated[
    bool | None, typer.Option("--denoise/--no-denoise", help="take the noise off the projections first; default: no")
]
Device = Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps")]
Dtype = Annotated[str | None, typer.Option(help="float32 (values as they are), uint8 or uint16 (mapping is stated)")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a setting of the preset; repeatable")
]
Seed = Annotated[int | None, typer.Option(help="fixes every random number; default 0")]
Base = Annotated[
    Path | None, typer.Option(help="base model, from the command pretrain: brings its method and settings")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="replace outputs that exist")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON object last on standard output")]


@app.callback(invoke_without_command=True)
def main(version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False) -> None:
    """Show the version."""
    if version:
        from .. import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.command()
def simulate(
    truth: Annotated[Path, typer.Argument(help="a fully sampled volume")],
    output: Output = None,
    slices: Slices = None,
    stride: Stride = None,
    profile: Profile = None,
    fwhm: Fwhm = None,
    truth_out: Annotated[
        Path | None, typer.Option(help="save the part of the truth that the projections cover")
    ] = None,
    channel: Channel = None,
    time: Time = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Make the projections that an elongated beam would see of a volume."""
    from .commands import simulated
    from .values import acquisition_of

    acquisition = acquisition_of(slices, stride, profile, fwhm)
    lines, values = simulated(truth, output, acquisition, truth_out, channel, time, overwrite)
    print_json(values) if json else typer.echo("\n".join(lines))


@app.command()
def reconstruct(
    projections: Annotated[Path | None, typer.Argument(help="the projection stack")] = None,
    output: Output = None,
    slices: Slices = None,
    stride: Stride = None,
    profile: Profile = None,
    fwhm: Fwhm = None,
    leave_out: LeaveOut = None,
    voxel_size: VoxelSize = None,
    denoise: Denoise = None,
    method: Annotated[str | None, typer.Option(help="see the command methods")] = None,
    preset: Annotated[str | None, typer.Option(help="preview (default), standard or paper")] = None,
    set_: Settings = None,
    seed: Seed = None,
    device: Device = None,
    channel: Channel = None,
    time: TimeOrAll = None,
    job: Annotated[
        Path | None, typer.Option(help="replay a job: a JSON file, or a volume saved by this software")
    ] = None,
    weights: Annotated[Path | None, typer.Option(help="use trained weights: brings method and settings")] = None,
    base: Base = None,
    save_weights: Annotated[Path | None, typer.Option(help="save the trained weights (.safetensors)")] = None,
    dtype: Dtype = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Turn a projection stack into a volume. Ctrl-C keeps what is done so far."""
    options: dict[str, Any] = dict(locals())
    as_json = options.pop("json")
    from .commands import reconstructed
    from .jobs import Options
    from .movie import all_reconstructed
    from .values import ALL, time_of

    options["time"], every = time_of(time), time == ALL
    lines, values, code = (all_reconstructed if every else reconstructed)(Options(**options))
    print_json(values) if as_json else typer.echo("\n".join(lines))
    raise typer.Exit(code)


@app.command()
def pretrain(
    volumes: Annotated[list[Path], typer.Argument(help="fully sampled volumes: files, or folders of them")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="where to write: .safetensors")] = None,
    method: Annotated[str | None, typer.Option(help="sparse3diff (default), ddpm or recurrent_mz")] = None,
    slices: Annotated[int | None, typer.Option(help="slices that one projection will stand for; default 6")] = None,
    stride: Stride = None,
    profile: Annotated[
        str | None,
        typer.Option(
            help="axial weights of the projections to come: point (default: every n-th slice is measured), uniform, "
            "gaussian, or a CSV file of measured weights"
        ),
    ] = None,
    fwhm: Fwhm = None,
    preset: Annotated[str | None, typer.Option(help="preview (default), standard or paper")] = None,
    set_: Settings = None,
    seed: Seed = None,
    device: Device = None,
    channel: Channel = None,
    time: Time = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Train a base model on fully sampled volumes, for projections that are made as described.

    Of a folder every volume in it is used, but not those in its folders. Ctrl-C keeps the base model as far as it is
    trained.
    """
    options: dict[str, Any] = dict(locals())
    as_json = options.pop("json")
    from .training import Options, pretrained

    lines, values, code = pretrained(Options(**options))
    print_json(values) if as_json else typer.echo("\n".join(lines))
    raise typer.Exit(code)


@app.command()
def evaluate(
    volume: Annotated[Path, typer.Argument(help="the volume to score")],
    truth: Annotated[Path | None, typer.Option(help="the fully sampled volume")] = None,
    projections: Annotated[Path | None, typer.Option(help="what the volume was made from")] = None,
    slices: Slices = None,
    stride: Stride = None,
    profile: Profile = None,
    fwhm: Fwhm = None,
    leave_out: LeaveOut = None,
    channel: Channel = None,
    time: Time = None,
    voxel_size: Annotated[
        str | None,
        typer.Option(
            metavar="Z,Y,X", help="voxel size in µm for --held-out; default: as the volume or its projections say"
        ),
    ] = None,
    held_out: Annotated[
        bool,
        typer.Option(
            "--held-out",
            help="also hide the projections in turn, reconstruct from the rest and compare; this scores the recipe "
            "that made the volume (method, settings, seed) and does not look at the volume's pixels",
        ),
    ] = False,
    folds: Annotated[int | None, typer.Option(help="in how many folds projections are hidden; default 4")] = None,
    method: Annotated[
        str | None, typer.Option(help="method to score with --held-out; default: the one the volume was made with")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="its preset: preview (default), standard or paper")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one of its settings; repeatable")
    ] = None,
    base: Base = None,
    denoise: Annotated[
        bool | None,
        typer.Option(
            "--denoise/--no-denoise",
            help="with --held-out, take the noise off the projections that are shown; default: as the volume was made",
        ),
    ] = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Score a volume against the truth, its own projections, or both.

    With --held-out, inr and all diffusion methods that learn from the stack are trained anew in each fold, and 4
    folds take about 4 times as long as one run; axial and axial_posterior are trained once, or not at all where the
    volume was made with --weights; base models are fitted to each fold anew where their method does so; the
    interpolations train nothing.
    Ctrl-C gives the score of the folds finished by then.
    """
    options: dict[str, Any] = dict(locals())
    as_json = options.pop("json")
    from .compared import Options
    from .scores import evaluated, scores_table

    values, code = evaluated(Options(**options))
    print_json(values) if as_json else typer.echo(scores_table(values, truth is not None))
    raise typer.Exit(code)


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(help="show the settings of this method")] = None,
    json: Json = False,
) -> None:
    """List the methods and their settings: range, default and meaning."""
    from .listing import as_data, as_text

    print_json(as_data(name)) if json else typer.echo(as_text(name))


@app.command()
def demo(
    projections: Annotated[Path | None, typer.Argument(help="your own projection stack; default: a phantom")] = None,
    slices: Slices = None,
    stride: Stride = None,
    profile: Profile = None,
    fwhm: Fwhm = None,
) -> None:
    """Open napari with a sample and reconstruct it."""
    from .commands import demonstrated
    from .values import acquisition_of

    raise typer.Exit(demonstrated(projections, acquisition_of(slices, stride, profile, fwhm)))
