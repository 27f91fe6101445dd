"""What happens in the trust box: maps come and go, a score is made in the background."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qtpy.QtCore import QObject, Signal

from ..acquisition import MINIMUM_PROJECTIONS
from ..provenance import verdict_in
from . import maps
from .background import Background, in_background
from .known import KEY, at, facts, ran_of
from .layers import pixels, spacing_um
from .live import looked_at
from .trust_box import MOVIE, MOVIE_RUN, NO_MAP, NO_RUN, TOO_FEW, TrustBox

if TYPE_CHECKING:
    from napari.components import ViewerModel
    from napari.layers import Image

    from .scoring import Scored


class Trusting(Background):
    """Fills a trust box for the chosen result, and does what is asked there.

    Parameters
    ----------
    box
        Shows, and says what people want.
    """

    STOPPED = "Stopped before there was a score"

    rearranged = Signal()  # layers have come or gone

    def __init__(self, viewer: ViewerModel, box: TrustBox, parent: QObject) -> None:
        super().__init__(parent)
        self._viewer, self._box = viewer, box
        self._layer: Image | None = None
        self._scored: Image | None = None
        self._busy = False
        self._awaited: set[tuple[Image, str]] = set()
        box.toggled.connect(self._toggle)
        box.score.connect(self.score)

    def show(self, layer: Image | None) -> None:
        """Show what is known of a result's layer; None where there is none."""
        self._layer = layer
        known = {} if layer is None else at(facts(layer), looked_at(self._viewer, layer))
        ran = ran_of(known)
        on = set() if layer is None else {kind for kind in maps.MAPS if self._wanted(layer, kind)}
        self._box.show_verdict(verdict_in(known.get("provenance")))
        spacing = None if layer is None else spacing_um(layer)
        self._box.found.show_found(known.get("provenance"), spacing and spacing[0])
        movie = "times" in known
        lacking = NO_RUN if layer is None else MOVIE if movie else NO_MAP
        no_run = MOVIE_RUN if movie else NO_RUN
        self._box.show_maps(maps.possible(known), on, lacking, no_run)
        never = "" if ran is not None or layer is None else no_run
        if ran is not None and len(ran.stack.data) <= MINIMUM_PROJECTIONS:
            never = TOO_FEW
        self._box.show_score(known.get("held_out", ""), ran is not None and not self._busy, never)

    def set_busy(self, busy: bool) -> None:
        """Whether something runs already: one thing at a time."""
        self._busy = busy
        self.show(self._layer)

    def score(self) -> None:
        """Score the chosen result's recipe on hidden projections; does nothing while something runs."""
        from .scoring import score
        from .worker import StoppableWorker

        ran = None if self._layer is None else ran_of(facts(self._layer))
        if ran is None or self._busy:
            return
        self._scored = self._layer
        self.set_busy(True)
        self._start(StoppableWorker(score, ran), "Hiding projections", self._end)

    def check_layers(self) -> None:
        """Layers have come or gone: maps may be among them, and the result that is being scored."""
        if self._scored is not None and self._scored not in self._viewer.layers:
            self.stop()
        if self._layer is not None and self._layer in self._viewer.layers:
            self.show(self._layer)

    # -- what comes back ---------------------------------------------------------------------

    def _end(self, scored: Scored) -> None:
        layer = self._scored
        if layer is not None:
            told = {**(facts(layer).get("provenance") or {}), "verdict": scored.verdict}  # saved with the volume
            known = {**facts(layer), "provenance": told, "held_out": scored.text}
            layer.metadata = {**layer.metadata, KEY: known}
        self._over()
        self.ended.emit("Stopped; the score is that of the turns so far" if scored.own.partial else "Scored")

    def _over(self) -> None:
        self._scored = None
        self.set_busy(False)

    def _toggle(self, kind: str, on: bool) -> None:
        layer = self._layer
        if layer is None:
            return
        if on:
            known, data = facts(layer), pixels(layer, {})
            self._awaited.add((layer, kind))
            in_background(
                lambda: maps.pictures(known, data, kind),
                lambda found: self._add(layer, kind, found),
                self,
                lambda: self._arrived(layer, kind),
            )
        else:
            self._awaited.discard((layer, kind))
            maps.hide(self._viewer, layer, kind)
            self.rearranged.emit()

    def _add(self, layer: Image, kind: str, found: list[maps.Picture]) -> None:
        """Show a map that has come, if it is still wanted."""
        if (layer, kind) in self._awaited and layer in self._viewer.layers:
            maps.show(self._viewer, layer, kind, found)
            self.rearranged.emit()

    def _arrived(self, layer: Image, kind: str) -> None:
        """Nothing is awaited any more, be it that there is no map after all."""
        self._awaited.discard((layer, kind))
        self.check_layers()

    def _wanted(self, layer: Image, kind: str) -> bool:
        return (layer, kind) in self._awaited or bool(maps.shown(self._viewer, layer, kind))
