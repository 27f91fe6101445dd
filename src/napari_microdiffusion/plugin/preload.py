"""Loading torch in a worker thread without freezing the window."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys
from importlib import import_module
from pathlib import Path

LIBRARIES = ("libtorch_global_deps.so", "libtorch_cpu.so")


def load_torch() -> None:
    """Import torch, with its large library loaded beforehand.

    Python loads an extension's libraries while it holds the interpreter's lock: for torch half a second in which no
    window answers. Calls through ctypes give the lock up, and the import then finds the library loaded. Where that does
    not work, torch is imported as usual.
    """
    if "torch" in sys.modules:
        return
    if sys.platform.startswith("linux"):
        _load_libraries()
    _meet_scipy()
    import_module("torch")


def _meet_scipy() -> None:
    """Have scipy find, and remember, that the types napari's camera hands it are not torch's.

    Else it asks torch while that is half imported, and turning the view, or switching to 3D, raises AttributeError.
    """
    import numpy as np
    from scipy.spatial.transform import Rotation

    for angles in ([0.0, 0.0, 0.0], (0.0, 0.0, 0.0), np.zeros(3), np.zeros((1, 3))):
        turn = Rotation.from_euler("yzx", angles, degrees=True)
        turn.as_euler("yzx", degrees=True)
        Rotation.from_quat(Rotation.from_matrix(turn.as_matrix()).as_quat().tolist())


def _load_libraries() -> None:
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return
    folder = Path(found.origin).parent / "lib"
    try:
        dlopen = ctypes.CDLL(None).dlopen
    except (OSError, AttributeError):
        return
    dlopen.restype, dlopen.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
    for name in LIBRARIES:
        scope = os.RTLD_GLOBAL if "global" in name else os.RTLD_LOCAL  # as torch itself does
        dlopen(os.fsencode(folder / name), os.RTLD_LAZY | scope)
