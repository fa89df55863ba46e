"""Terminal escape sequences in what kernels send: taken out, or shown as HTML.

The colours are sequences of the form ``ESC [ numbers m`` ("select graphic rendition", ECMA-48,
section 8.3.117). The sixteen that have names leave it to the terminal how they look: these are readable on a
light and on a dark ground (a contrast of 4 to 1 or more on either).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

# CSI sequences (colours, cursor moves), OSC sequences (links, titles), and the
# two-character escapes. ECMA-48, sections 5.3 to 5.6.
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[ -/]*[0-Z\\^-~])")
_COLOUR = re.compile(r"\x1b\[([0-9;]{0,99})m")

# Black and white are the page's own: whatever it writes in can be read.
_NAMED = ("", "#d6403a", "#17883c", "#967000", "#2a72d4", "#b04cc0", "#0f8289", "")
_BRIGHT = ("#777777", *_NAMED[1:])
_SWITCHES = {
    1: ("font-weight", "bold"),
    2: ("opacity", "0.7"),
    3: ("font-style", "italic"),
    4: ("text-decoration", "underline"),
    9: ("text-decoration", "line-through"),
}
_ENDS = {
    22: ("font-weight", "opacity"),
    23: ("font-style",),
    24: ("text-decoration",),
    29: ("text-decoration",),
    39: ("color",),
    49: ("background",),
}


def strip(text: str) -> str:
    """Remove terminal escape sequences."""
    return _ESCAPE.sub("", text) if "\x1b" in text else text


def to_html(text: str) -> str:
    """Escaped text, in spans of the colours and weights that its escape sequences ask for."""
    if "\x1b" not in text:
        return html.escape(text)
    parts: list[str] = []
    style: dict[str, str] = {}
    begun = 0
    for found in [*_ESCAPE.finditer(text), None]:
        piece = text[begun : found.start() if found else None]
        if piece:
            css = ";".join(f"{name}:{value}" for name, value in style.items())
            shown = html.escape(piece)
            parts.append(f'<span style="{css}">{shown}</span>' if css else shown)
        if found:
            begun = found.end()
            if colour := _COLOUR.fullmatch(found.group()):
                _change(style, iter([int(number or 0) for number in colour[1].split(";")]))
    return "".join(parts)


def _change(style: dict[str, str], numbers: Iterator[int]) -> None:
    """Change a style as one sequence says."""
    for number in numbers:
        if number == 0:
            style.clear()
        elif number in _SWITCHES:
            name, value = _SWITCHES[number]
            style[name] = value
        elif number in _ENDS:
            for name in _ENDS[number]:
                style.pop(name, None)
        elif number in (38, 48):
            _colour(style, number == 48, _chosen(numbers))
        elif number // 10 in (3, 4) and number % 10 < 8:
            _colour(style, number >= 40, _NAMED[number % 10])
        elif number // 10 in (9, 10) and number % 10 < 8:
            _colour(style, number >= 100, _BRIGHT[number % 10])


def _colour(style: dict[str, str], ground: bool, colour: str) -> None:
    name = "background" if ground else "color"
    style.pop(name, None)
    if colour:
        # A ground is but a tint, for the text on it to be read in any theme.
        style[name] = f"color-mix(in srgb, {colour} 25%, transparent)" if ground else colour


def _chosen(numbers: Iterator[int]) -> str:
    """The colour after a 38 or 48: ``5;N`` of the 256, or ``2;RED;GREEN;BLUE``."""
    kind = next(numbers, 0)
    if kind == 2:
        red, green, blue = (min(next(numbers, 0), 255) for _ in range(3))
        return f"rgb({red},{green},{blue})"
    if kind != 5:
        return ""
    number = min(next(numbers, 0), 255)
    if number < 16:
        return (*_NAMED, *_BRIGHT)[number]
    if number >= 232:
        grey = 8 + 10 * (number - 232)
        return f"rgb({grey},{grey},{grey})"
    levels = (0, 95, 135, 175, 215, 255)
    number -= 16
    return f"rgb({levels[number // 36]},{levels[number // 6 % 6]},{levels[number % 6]})"
