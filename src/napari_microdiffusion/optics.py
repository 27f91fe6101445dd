"""What a microscope's objective says of its blur."""

from __future__ import annotations

import math

from .events import InvalidInput

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian, in standard deviations."""


def axial_blur_um(numerical_aperture: float, wavelength_um: float, refractive_index: float) -> float:
    """How much more an objective blurs along z than across, as the standard deviation of a Gaussian in µm.

    The full widths at half maximum of the point spread function, widefield or confocal with an open pinhole, are
    0.88 λ / (n − √(n² − NA²)) along z and 0.51 λ / NA across (Wilhelm et al., Confocal Laser Scanning Microscopy, Carl
    Zeiss).

    Raises
    ------
    InvalidInput
        If the aperture is not below the refractive index.
    """
    if numerical_aperture >= refractive_index:
        raise InvalidInput(
            f"objective_na {numerical_aperture:g} is not below refractive_index {refractive_index:g}: "
            "state the index of the immersion medium (water 1.33, glycerol 1.47, oil 1.52)"
        )
    along = 0.88 * wavelength_um / (refractive_index - math.sqrt(refractive_index**2 - numerical_aperture**2))
    across = 0.51 * wavelength_um / numerical_aperture
    return math.sqrt(max(0.0, along**2 - across**2)) / FWHM
