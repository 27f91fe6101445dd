"""What may be imported where, seen from a fresh process."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import pytest

import napari_microdiffusion

GUI = ("napari", "qtpy", "PySide6", "PyQt5", "PyQt6", "superqt", "magicgui", "vispy", "pyqtgraph")


def imported_by(statement: str) -> set[str]:
    """Top-level packages in `sys.modules` after a statement in a fresh interpreter."""
    code = (
        f"import json, sys\n{statement}\nprint(json.dumps(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return set(json.loads(finished.stdout.splitlines()[-1]))


ENGINE = [
    name for _, name, _ in pkgutil.iter_modules(napari_microdiffusion.__path__) if name not in ("plugin", "__main__")
]


def test_the_engine_needs_neither_napari_nor_qt():
    found = imported_by("\n".join(f"import napari_microdiffusion.{name}" for name in ENGINE))
    assert len(ENGINE) > 30
    assert "torch" in found
    assert found.isdisjoint(GUI)


@pytest.mark.parametrize("module", ["", ".presets", ".cli", ".io"])
def test_light_modules_do_not_load_torch(module):
    found = imported_by(f"import napari_microdiffusion{module}")
    assert "napari_microdiffusion" in found
    assert found.isdisjoint({"torch", "diffusers", "matplotlib", "dask", *GUI})


def test_an_interpolation_runs_without_torch():
    found = imported_by(
        "from napari_microdiffusion import Acquisition, phantom, reconstruct\n"
        "from napari_microdiffusion.presets import spec\n"
        "reconstruct(phantom('nuclei', (18, 32, 32)).simulate(Acquisition())[0], spec('conservative'))"
    )
    assert "torch" not in found


def test_the_thread_policy_is_set_before_torch_unless_the_user_has():
    code = (
        "import os; os.environ.pop('OMP_WAIT_POLICY', None); {}"
        "import napari_microdiffusion; print(os.environ['OMP_WAIT_POLICY'])"
    )
    for before, expected in [("", "PASSIVE"), ("os.environ['OMP_WAIT_POLICY'] = 'ACTIVE'; ", "ACTIVE")]:
        finished = subprocess.run(
            [sys.executable, "-c", code.format(before)], capture_output=True, text=True, check=True
        )
        assert finished.stdout.strip() == expected


def test_every_public_name_is_there():
    code = "import napari_microdiffusion as m; print([n for n in m.__all__ if not hasattr(m, n)])"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.stdout.strip() == "[]", finished.stderr
