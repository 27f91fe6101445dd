"""Base models of the methods that are trained on full volumes: for each volume scored, on others (`volumes.others`).

`python -m benchmarks.base BASE.json` trains one in a process of its own. They are kept in a folder for temporary
files, by all that they depend on, so that cases which differ in sampling alone share one.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

from .case import Case, commit
from .volumes import check_left_out, others, sha256_of, whole


def key(case: Case) -> str:
    """Of all that the base model of a case depends on: sampling settings are not among it."""
    from napari_microdiffusion.settings import sampling_paths

    method = case.spec()
    values = {name: value for name, value in method.model_dump().items() if name not in sampling_paths(method)}
    volumes = {name: sha256_of(name) for name in others(case.volume)}
    known = [values, case.slices, case.stride, case.profile, case.seed, case.device, volumes]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()[:16]


def train(case: Case, path: Path) -> None:
    """Train the base model of a case on volumes other than its own; keep it at ``path``, and the seconds it took."""
    from napari_microdiffusion.events import exhaust
    from napari_microdiffusion.pretraining import Pretraining, pretrain
    from napari_microdiffusion.trained import save_base

    plan = Pretraining(method=case.spec(), acquisition=case.acquisition, seed=case.seed, device=case.device)
    made_with = commit()
    volumes = [whole(name) for name in others(case.volume)]
    began = time.monotonic()
    base = exhaust(pretrain(plan, volumes))
    seconds = time.monotonic() - began
    check_left_out(case.volume, {volume.name: volume.sha256 for volume in base.origin.volumes})
    record = {"seconds": seconds, "commit": made_with, "trained_on": [volume.name for volume in base.origin.volumes]}
    path.with_suffix(".json").write_text(json.dumps(record))
    save_base(path, base, overwrite=True)  # last: where it is, it is whole


def record_of(path: Path) -> dict[str, Any]:
    """What a result says of its base model: which it was, its commit and seconds, the volumes it was trained on."""
    found = json.loads(path.with_suffix(".json").read_text())
    known = {f"base_{key}": found[key] for key in ("seconds", "commit") if key in found}  # older ones name no commit
    return {"base": path.stem, **known, "trained_on": found["trained_on"]}


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    train(Case.model_validate(given["case"]), Path(given["path"]))
