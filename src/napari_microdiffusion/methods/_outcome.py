"""What came of a network: whether anything speaks against giving it, and what people are told of it."""

from __future__ import annotations

import math

from ..acquisition import MINIMUM_PROJECTIONS
from ..volume import ProjectionStack
from ._trial import Trial

UNTESTED = "there are too few projections to hide any, so nothing tells whether to trust a network"

CRAMPED_LEAD = 1.0
"""dB by which a network must predict hidden projections better than interpolation does where images are too small for
deep patches: one that led by 0.68 dB made a volume 0.4 dB worse."""


def doubt(trial: Trial, stack: ProjectionStack, sigma: float | None) -> str:
    """Why the conservative interpolation is to be preferred to the network; empty where it is not.

    Parameters
    ----------
    sigma
        As people set it, in slices; None: as it was chosen.
    """
    lead = trial.lead(trial.sigma if sigma is None else sigma)
    if lead < 0:
        than = "no better" if lead > -0.005 else f"{-lead:.2f} dB worse"
        return (
            f"hidden projections are predicted {than} than by interpolation (the sample "
            "may look different along z than across, or training was too short)"
        )
    if lead < CRAMPED_LEAD and cramped(stack, trial.ratio):
        return (
            f"hidden projections are predicted {lead:.2f} dB better than by interpolation, and "
            f"{CRAMPED_LEAD:g} dB are asked for where images are as small as these"
        )
    return UNTESTED if sigma is None and not trial.scores else ""


def cramped(stack: ProjectionStack, ratio: float) -> bool:
    """Whether images are too small for patches as deep as four projections, by the voxel ratio dz/dx."""
    acquisition = stack.acquisition
    return ratio * (MINIMUM_PROJECTIONS * acquisition.step + acquisition.slices) > min(stack.shape[1:])


def small_images(stack: ProjectionStack) -> str:
    """Said of images that are `cramped`, before training."""
    tested = len(stack.data) > MINIMUM_PROJECTIONS
    unless = f", which is given unless hidden projections are predicted {CRAMPED_LEAD:g} dB better"
    return (
        "the images are too small for patches as deep as four projections: they are mirrored at their edges, "
        f"and what the network learns may be worse than interpolation{unless if tested else ''}; larger images "
        "or fewer slices per projection would help"
    )


def summary(trial: Trial, guessed: bool) -> str:
    """What was chosen, and how well hidden projections are told with that; whether the voxel ratio was guessed."""
    own, lead = trial.score(trial.sigma), trial.lead(trial.sigma)
    alike = f" (to {trial.floor + lead:.1f} dB by settings that cannot be told apart)"
    others = alike if own < trial.floor and lead >= 0 else ""
    told = f"hidden projections are predicted to {own:.1f} dB{others}, by interpolation to {trial.floor:.1f} dB"
    longer = f"structures {trial.elongation:.2g} times as long along z as across; " if trial.elongation != 1 else ""
    return (
        f"axial blur {trial.sigma:.3g} slices beyond the lateral one; voxels {'taken to be ' * guessed}"
        f"{trial.ratio:.3g} times as deep as wide{', as their size is not stated' * guessed}; {longer}"
        f"{'too few projections to hide any' if math.isnan(trial.floor) else told}"
    )


def widened(trial: Trial) -> str:
    """Said where the training was too short for error bars as the network states them."""
    return (
        f"error bars are made {trial.widening:.2g} times as wide as the network states them: training was "
        "short, or on a stack with less noise; more steps would help"
    )
