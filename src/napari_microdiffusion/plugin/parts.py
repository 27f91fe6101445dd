"""Small parts of the form: text, combo boxes, rows, and what scrolls."""

from __future__ import annotations

from typing import Any

from qtpy.compat import isalive
from qtpy.QtCore import QEvent, QObject, QSize, Qt
from qtpy.QtWidgets import QComboBox, QHBoxLayout, QLabel, QScrollArea, QSizePolicy, QWidget

TONES = {"wrong": ("#f0605a", "#b3261e"), "beware": ("#e0a040", "#855200")}
"""Colours of text that says what is wrong, and what to beware of: on a dark and on a light ground."""

NARROWEST = 400
"""Pixels across which paragraphs read well."""


def alive(thing: QObject) -> bool:
    """Whether Qt has not deleted it."""
    return bool(isalive(thing))  # type: ignore[no-untyped-call]


def sentence(text: str, *names: str) -> str:
    """With a capital letter, but where it begins with the name of a layer."""
    return text if text.startswith(tuple(f"{name} " for name in names)) else text[:1].upper() + text[1:]


def tones(theme: str) -> str:
    """A style sheet by which texts have their tone, readable on the ground of one of napari's themes."""
    from napari.utils.theme import get_theme

    light = sum(get_theme(theme).background.as_rgb_tuple()[:3]) > 3 * 127
    return "".join(f'*[tone="{tone}"] {{ color: {colours[light]} }}' for tone, colours in TONES.items())


def tint(widget: QWidget, tone: str = "") -> None:
    """Give a widget one of `TONES`, or that of all text."""
    widget.setProperty("tone", tone)
    widget.style().unpolish(widget)
    widget.style().polish(widget)


class UprightArea(QScrollArea):
    """Scrolls up and down, and is as wide as what it holds, which hangs on napari's font size."""

    def minimumSizeHint(self) -> QSize:
        size, inside = super().minimumSizeHint(), self.widget()
        if inside is not None:
            bar = self.verticalScrollBar().sizeHint().width()
            size.setWidth(max(NARROWEST, inside.minimumSizeHint().width() + bar + 2 * self.frameWidth()))
        return size

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() == QEvent.Type.LayoutRequest:
            self.updateGeometry()
        return bool(super().eventFilter(watched, event))


def paragraph() -> QLabel:
    """Text that wraps, and widens nothing."""
    label = QLabel()
    label.setWordWrap(True)
    label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    return label


def combo_box() -> QComboBox:
    """A combo box that long texts do not widen, nor the wheel changes."""
    box = QComboBox()
    box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
    box.setMinimumContentsLength(8)
    unscrolled(box)
    return box


def hinted(box: QComboBox, hint: str) -> None:
    """A tooltip that also holds the whole of a text for which the box may be too narrow."""
    box.setToolTip(hint)
    box.currentTextChanged.connect(lambda text: box.setToolTip(f"{text}\n{hint}" if text else hint))


def unscrolled(widget: QWidget) -> QWidget:
    """The widget, deaf to the wheel: scrolling the dock must not change settings."""
    widget.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    widget.wheelEvent = lambda event: event.ignore()  # type: ignore[method-assign]
    return widget


def offer(box: QComboBox, items: list[tuple[str, Any]], chosen: Any) -> None:
    """Offer texts, each with its data, and choose one by its data, else the first."""
    box.clear()
    for text, data in items:
        box.addItem(text, data)
    box.setCurrentIndex(max(0, box.findData(chosen)) if items else -1)


def side_by_side(*widgets: QWidget) -> QWidget:
    """Widgets in a row, the first as wide as there is room."""
    row = QWidget()
    layout = QHBoxLayout(row)
    layout.setContentsMargins(0, 0, 0, 0)
    for i, widget in enumerate(widgets):
        layout.addWidget(widget, 1 if i == 0 else 0)
    return row
