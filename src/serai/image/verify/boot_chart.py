"""The units of a boot, read out of what ``systemd-analyze plot`` draws (systemd-analyze(1)).

100 pixels are a second there, so that an emulated boot's chart is several metres wide. The drawing
is the guest's own: an SVG may hold scripts and addresses, so nothing of it is kept but numbers and
names, of which ``redrawn`` makes another one.
"""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from serai.image import console

_PIXELS = 100.0  # for a second, in systemd-analyze's drawing
_ROW = 20  # pixels
_TOP = 70
_LARGEST = 8 << 20  # characters of a drawing
_UNITS = 5000
# All are bounded: a drawing that is made for it would take a regular expression for ever.
_NUMBER = r"(-?\d{1,9}(?:\.\d{1,9})?)"
_BOX = re.compile(rf'<rect class="box"[^>]{{0,200}} width="{_NUMBER}"')
_UNIT = re.compile(
    rf'<rect class="activating" x="{_NUMBER}"[^>]{{0,200}} width="{_NUMBER}"[^>]{{0,200}}/>'
    r'\s{0,40}(?:<rect class="(?:active|deactivating)"[^>]{0,200}/>\s{0,40}){0,4}'
    r"<text[^>]{0,200}>([^<]{0,400})</text>"
)
_SUMMARY = re.compile(r"<text[^>]{0,200}>\s{0,40}(Startup finished in [^<]{0,1000})</text>")
_STYLE = "text{font:14px sans-serif}.box{fill:#f6f6f6}.activating{fill:#d33}"


@dataclass(frozen=True)
class Bar:
    """Something that took ``seconds``, from ``start`` seconds on, in a whole of ``total``."""

    name: str
    start: float
    seconds: float
    total: float
    group: str = ""
    status: str = ""

    @property
    def left(self) -> float:
        """Where it begins, in per cent of the whole."""
        return self._share(self.start)

    @property
    def width(self) -> float:
        """How much of the whole it takes, in per cent; something short can still be seen."""
        return max(self._share(self.seconds), 0.3)

    def _share(self, seconds: float) -> float:
        return 100 * min(max(seconds / self.total, 0.0), 1.0) if self.total > 0 else 0.0


@dataclass(frozen=True)
class Boot:
    """``summary`` is systemd's own sentence, ``units`` those that took time, by their start."""

    summary: str
    units: tuple[Bar, ...]


def boot(svg: str) -> Boot:
    """What systemd-analyze's drawing, or ours of it, says; nothing where it is none."""
    svg = svg[:_LARGEST]
    box = _BOX.search(svg)
    total = float(box[1]) / _PIXELS if box else 0.0
    units = []
    for x, width, label in _UNIT.findall(svg)[:_UNITS]:
        seconds = float(width) / _PIXELS
        name = re.sub(r" \([^()]*\)$", "", html.unescape(label).strip())
        if seconds > 0 and "." in name:  # the drawing's legend has bars, too, but no unit's name
            units.append(Bar(name, float(x) / _PIXELS, seconds, total))
    summary = _SUMMARY.search(svg)
    lines = html.unescape(summary[1]).splitlines() if summary else []
    sentence = "; ".join(line.strip() for line in lines if line.strip())
    return Boot(sentence, tuple(sorted(units, key=lambda unit: (unit.start, unit.name))))


def redrawn(svg: str) -> str:
    """A drawing of what ``svg`` says, and of nothing else in it; '' where it tells of no unit."""
    found = boot(svg)
    if not found.units:
        return ""
    width = max(found.units[0].total, *(unit.start + unit.seconds for unit in found.units))
    height = len(found.units) * _ROW
    lines = [
        f'<svg width="{width * _PIXELS + 540:.0f}px" height="{height + _TOP + 20}px" '
        'version="1.1" xmlns="http://www.w3.org/2000/svg">',
        f"<style>{_STYLE}</style>",
        f'<text x="20" y="30">{_text(found.summary)}</text>',
        f'<g transform="translate(20,{_TOP})">',
        f'<rect class="box" x="0" y="0" width="{found.units[0].total * _PIXELS:.3f}" '
        f'height="{height}"/>',
    ]
    for number, unit in enumerate(found.units):
        x, y = unit.start * _PIXELS, number * _ROW
        lines += [
            f'<rect class="activating" x="{x:.3f}" y="{y}" '
            f'width="{unit.seconds * _PIXELS:.3f}" height="{_ROW - 1}"/>',
            f'<text x="{x + 5:.3f}" y="{y + 14}">{_text(unit.name)} ({unit.seconds:.3f}s)</text>',
        ]
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _text(text: str) -> str:
    return html.escape(console.clean(text))
