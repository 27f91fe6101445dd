"""Whether the widget and the command line give the same scores on each shared volume.

    xvfb-run -a -s "-screen 0 1600x1000x24" python -m benchmarks.faces [--method microdiffusion] [--set KEY=VALUE ...]

Each volume, read as it is, is projected by `simulate`; both faces then reconstruct those files. Prints JSON, and
exits 1 where scores differ by more than 1e-6. By default the training is short: what is compared are the faces.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .case import SHARED

SHORT = ["prior.steps=40", "steps=20", "sampling_steps=3"]
KEYS = ("psnr", "psnr_volume", "ssim", "dice", "reprojection_max_error")


def command(*arguments: str) -> dict[str, Any]:
    """Run the command line; its JSON answer."""
    done = subprocess.run(
        [Path(sys.executable).with_name("napari-microdiffusion"), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def by_command(volume: Path, folder: Path, method: str, settings: list[str]) -> dict[str, float]:
    """Simulate, reconstruct and evaluate on the command line; leaves projections and truth in ``folder``."""
    projections, truth, result = (str(folder / f"{volume.name[:-8]}_{x}.ome.tif") for x in ("p", "truth", "result"))
    command("simulate", str(volume), "-o", projections, "--slices", "6", "--truth-out", truth)
    options = [word for setting in settings for word in ("--set", setting)]
    command("reconstruct", projections, "-o", result, "--method", method, *options)
    return command("evaluate", result, "--truth", truth, "--projections", projections)


def by_widget(name: str, folder: Path, method: str, settings: list[str]) -> dict[str, float]:
    """Open the same files in the viewer and run the widget; the scores it shows at the end."""
    import napari
    from qtpy.QtCore import QTimer

    from napari_microdiffusion.plugin.known import facts
    from napari_microdiffusion.presets import parse_value

    viewer = napari.Viewer(show=True)
    widget: Any = viewer.window.add_plugin_dock_widget("napari-microdiffusion", "Reconstruct volume")[1]
    (truth,) = viewer.open(folder / f"{name}_truth.ome.tif", plugin="napari-microdiffusion")
    (source,) = viewer.open(folder / f"{name}_p.ome.tif", plugin="napari-microdiffusion")
    overrides = {key: parse_value(value) for key, _, value in (setting.partition("=") for setting in settings)}
    setup = {"source": source.name, "truth": truth.name, "method": method, "overrides": overrides}
    widget.setValue(widget.value().replace(**setup))
    scores: dict[str, float] = {}

    def end(_: bool) -> None:
        layers = widget.results()
        scores.update(facts(layers[-1]).get("scores", {}) if layers else {"failed": widget.message})
        QTimer.singleShot(0, viewer.close)

    widget.finished.connect(end)
    QTimer.singleShot(500, widget.run)
    napari.run()
    return scores


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.faces", description=__doc__)
    parser.add_argument("--method", default="microdiffusion")
    parser.add_argument("--set", action="append", dest="settings", metavar="KEY=VALUE")
    given = parser.parse_args()
    settings = given.settings or (SHORT if given.method == "microdiffusion" else [])
    report = {}
    with tempfile.TemporaryDirectory() as temporary:
        for volume in sorted((SHARED / "data").glob("*.ome.tif"), key=lambda path: path.stat().st_size):
            name = volume.name[:-8]
            line = by_command(volume, Path(temporary), given.method, settings)
            window = by_widget(name, Path(temporary), given.method, settings)
            difference = max(abs(line[key] - window.get(key, 0.0)) for key in KEYS)
            report[name] = {"command": line, "widget": window, "largest_difference": difference}
            print(f"{name}: {line['psnr']:.4f} dB and {window.get('psnr', 0):.4f} dB", file=sys.stderr, flush=True)
    print(json.dumps(report, indent=1))
    return int(any(row["largest_difference"] > 1e-6 for row in report.values()))


if __name__ == "__main__":
    sys.exit(main())
