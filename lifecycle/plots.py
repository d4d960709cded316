"""Two small plots as SVG text: precision over recall, and how often what was called probable came true.

Hand-written, as they need only axes, lines and dots; no library draws here. The same numbers give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from domain.batch import Floats
from lifecycle.evaluation import Bools

__all__ = ["Curve", "precision_recall", "precision_recall_svg", "reliability_svg"]

_SIZE, _MARGIN = 360, 48
_COLOURS = ("#0b6e99", "#b3541e", "#777777")
_POINTS = 200
"""Of a curve, at most: a file for a web page, not for a microscope."""


@dataclass(frozen=True, slots=True)
class Curve:
    """A named line through points, both float64[n] within 0 to 1."""

    name: str
    x: Floats
    y: Floats


def precision_recall(name: str, scores: Floats, labels: Bools) -> Curve:
    """Precision over recall for every threshold, thinned; events without a score rank last."""
    found = int(labels.sum())
    if not found:
        return Curve(name, np.empty(0), np.empty(0))
    order = np.argsort(-np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    hits = np.cumsum(labels[order])
    precision, recall = hits / np.arange(1, len(hits) + 1), hits / found
    at = np.unique(np.searchsorted(recall, np.linspace(1.0 / found, 1.0, min(found, _POINTS)) - 1e-12))
    return Curve(name, recall[at], precision[at])


def precision_recall_svg(curves: Sequence[Curve], share: float) -> str:
    """The curves, and as a dashed line the ``share`` of positives, which is what chance reaches."""
    parts = [_frame("recall", "precision"), _line([(0.0, share), (1.0, share)], "#777777", dashed=True)]
    for curve, colour in zip(curves, _COLOURS, strict=False):
        parts.append(_line(list(zip(curve.x.tolist(), curve.y.tolist(), strict=True)), colour))
    parts.append(_legend([*(curve.name for curve in curves[: len(_COLOURS)]), "chance (dashed)"]))
    return _svg("Precision over recall", parts)


def reliability_svg(probability: Floats, labels: Bools, *, bins: int = 10) -> str:
    """Bins of equally many events: their mean probability, and the share that was positive, with 95 % intervals.

    Both axes end at the greatest value shown, as most probabilities of fraud are small.
    """
    known = np.flatnonzero(~np.isnan(probability))
    order = known[np.argsort(probability[known], kind="stable")]
    groups = [part for part in np.array_split(order, bins) if len(part)]
    said = [float(probability[part].mean()) for part in groups]
    spans = [_wilson(int(labels[part].sum()), len(part)) for part in groups]
    top = max([*said, *(high for _, _, high in spans), 1e-6])
    parts = [_frame("probability said", "share that was positive", top)]
    parts.append(_line([(0.0, 0.0), (1.0, 1.0)], "#777777", dashed=True))
    for mean, (low, share, high) in zip(said, spans, strict=True):
        parts.append(_line([(mean / top, low / top), (mean / top, high / top)], _COLOURS[0]))
        x, y = _place(mean / top, share / top)
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{_COLOURS[0]}"/>')
    return _svg("How far probabilities can be believed", parts)


def _wilson(hits: int, n: int) -> tuple[float, float, float]:
    z = 1.959963984540054
    share = hits / n
    middle, half = share + z * z / (2 * n), z * np.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    whole = 1 + z * z / n
    return max(0.0, float((middle - half) / whole)), share, min(1.0, float((middle + half) / whole))


def _place(x: float, y: float) -> tuple[float, float]:
    span = _SIZE - 2 * _MARGIN
    return _MARGIN + x * span, _SIZE - _MARGIN - y * span


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashed: bool = False) -> str:
    if len(points) < 2:
        points = [*points, *points]
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in (_place(*point) for point in points))
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="1.6"{dash}/>'


def _text(x: float, y: float, text: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}"{more}>{escape(text)}</text>'


def _frame(across: str, up: str, top: float = 1.0) -> str:
    span = _SIZE - 2 * _MARGIN
    parts = [
        f'<rect x="{_MARGIN}" y="{_MARGIN}" width="{span}" height="{span}" fill="none" stroke="#999999"/>'
    ]
    for tick in (0.0, 0.5, 1.0):
        x, y = _place(tick, tick)
        parts.append(_text(x, _SIZE - _MARGIN + 14, f"{tick * top:.3g}", ' text-anchor="middle"'))
        parts.append(_text(_MARGIN - 5, y + 4, f"{tick * top:.3g}", ' text-anchor="end"'))
    parts.append(_text(_SIZE / 2, _SIZE - _MARGIN + 30, across, ' text-anchor="middle"'))
    turned = f' text-anchor="middle" transform="rotate(-90 12 {_SIZE / 2})"'
    parts.append(_text(12, _SIZE / 2, up, turned))
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    parts = []
    for i, name in enumerate(names):
        colour = _COLOURS[i] if i < len(names) - 1 else _COLOURS[-1]
        parts.append(
            _text(_SIZE - _MARGIN - 6, _MARGIN + 16 + 14 * i, name, f' text-anchor="end" fill="{colour}"')
        )
    return "".join(parts)


def _svg(title: str, parts: Sequence[str]) -> str:
    body = "".join(parts)
    head = _text(_SIZE / 2, 24, title, ' text-anchor="middle" font-size="13"')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_SIZE} {_SIZE}" width="{_SIZE}" height="{_SIZE}" '
        f'font-family="sans-serif" font-size="11" role="img"><title>{escape(title)}</title>'
        f'<rect width="{_SIZE}" height="{_SIZE}" fill="#ffffff"/>{head}{body}</svg>\n'
    )
