"""Text and HTML for results and reports, in the theme's own colours.

HTML here sets no background and takes its colours from JupyterLab's variables,
with fallbacks that inherit, so that it reads in light and dark themes and in
front ends that know no such variables.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jupyter_pool import _ansi

_TEXT = "color:var(--jp-content-font-color1, inherit)"
_MUTED = "color:var(--jp-content-font-color2, inherit)"
_BORDER = "var(--jp-border-color2, #ccc)"
_ERROR = "var(--jp-error-color1, currentColor)"
_PRE = f"{_TEXT};margin:0;white-space:pre-wrap;overflow-wrap:anywhere;text-align:left"

_MARKER = "\n[... {:,} characters left out ...]\n"
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")


def as_terminal(text: str) -> str:
    """Return what a terminal shows after printing `text`, without colours.

    A carriage return goes back to the line's start, a backspace one column;
    what follows overwrites, and the rest of the line stays.
    """
    text = _ansi.strip(text)
    if not _goes_back(text):
        return text
    return "\n".join(map(_overwrite, text.split("\n")))


def _goes_back(text: str) -> bool:
    return "\r" in text or "\b" in text


def _overwrite(line: str) -> str:
    if "\b" not in line:  # whole pieces at a time: long progress bars are common
        shown = ""
        for piece in line.split("\r"):
            shown = piece + shown[len(piece) :]
        return shown
    cells: list[str] = []
    column = 0
    for char in line:
        if char == "\r":
            column = 0
        elif char == "\b":
            column = max(0, column - 1)
        else:
            cells[column : column + 1] = [char]
            column += 1
    return "".join(cells)


def cut_middle(text: str, max_chars: int | None) -> str:
    """Shorten to at most `max_chars` characters, keeping both ends."""
    if max_chars is None or len(text) <= max_chars:
        return text
    room = max_chars - len(_MARKER.format(len(text)))  # the number shown is never longer
    if room <= 0:
        return text[: max(0, max_chars)]
    tail = room // 2
    marker = _MARKER.format(len(text) - room)
    return text[: room - tail] + marker + text[len(text) - tail :]


def output_text(output: Mapping[str, Any]) -> str:
    """Return one notebook-format output as a terminal would show it."""
    return as_terminal(_output_text(output))


def _output_text(output: Mapping[str, Any]) -> str:
    kind = output.get("output_type")
    if kind == "stream":
        return joined(output.get("text", ""))
    if kind == "error":
        lines = output.get("traceback") or [f"{output.get('ename')}: {output.get('evalue')}"]
        return "\n".join(lines)
    data = output.get("data") or {}
    for mime in ("text/plain", "text/markdown", "text/latex"):
        if mime in data:
            return joined(data[mime])
    return f"<{', '.join(data)}>" if data else ""


def outputs_text(outputs: Iterable[Mapping[str, Any]]) -> str:
    """Return outputs one after the other; displays and errors on lines of their own."""
    parts: list[str] = []
    at_line_start = True
    for output in outputs:
        text = output_text(output)
        if not text:
            continue
        whole_lines = output.get("output_type") != "stream"
        if whole_lines and not at_line_start:
            parts.append("\n")
        if whole_lines and not text.endswith("\n"):
            text += "\n"
        parts.append(text)
        at_line_start = text.endswith("\n")
    return "".join(parts).removesuffix("\n")


def output_html(output: Mapping[str, Any]) -> str:
    """Return one notebook-format output as an HTML fragment."""
    kind = output.get("output_type")
    if kind in ("stream", "error"):
        text = _output_text(output).removesuffix("\n")
        if kind == "error":
            return error_block(text)
        return pre(text, edge=_BORDER if output.get("name") == "stderr" else None)
    data = output.get("data") or {}
    metadata = output.get("metadata") or {}
    if "text/html" in data:
        return f"<div>{joined(data['text/html'])}</div>"
    if "image/svg+xml" in data:
        # As an image, not inline: ids and styles stay inside it.
        encoded = base64.b64encode(joined(data["image/svg+xml"]).encode()).decode()
        return _image("image/svg+xml", encoded, metadata, data)
    for mime in _IMAGES:
        if mime in data:
            return _image(mime, "".join(joined(data[mime]).split()), metadata, data)
    if "text/latex" in data:
        return f'<div style="{_TEXT}">{html.escape(joined(data["text/latex"]))}</div>'
    if "text/plain" not in data and "application/json" in data:
        return pre(json.dumps(data["application/json"], indent=2, ensure_ascii=False))
    return pre(_output_text(output))


def _image(mime: str, encoded: str, metadata: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    own = metadata.get(mime)
    size = own if isinstance(own, Mapping) else metadata
    attributes = "".join(
        f' {side}="{int(size[side])}"'
        for side in ("width", "height")
        if isinstance(size.get(side), (int, float))
    )
    alt = html.escape(joined(data.get("text/plain", "")))
    return f'<img src="data:{mime};base64,{encoded}" alt="{alt}"{attributes}>'


def joined(text: Any) -> str:
    """Return a notebook-format text, which may be a list of lines, as one string."""
    return "".join(text) if isinstance(text, (list, tuple)) else str(text)


def pre(text: str, *, edge: str | None = None) -> str:
    """Return preformatted text in its own colours, with a line of one beside it if `edge` is one."""
    # A coloured edge rather than a coloured ground: it works in any theme.
    beside = f";border-left:2px solid {edge};padding-left:6px" if edge else ""
    # What overwrites itself, as progress bars do, is shown as it ends up, without colours.
    body = html.escape(as_terminal(text)) if _goes_back(text) else _ansi.to_html(text)
    return f'<pre style="{_PRE}{beside}">{body}</pre>'


def error_block(text: str) -> str:
    """Return preformatted text, marked as an error."""
    return pre(text, edge=_ERROR)


def line(text: str) -> str:
    """Return one muted line of HTML."""
    return f'<div style="{_MUTED}">{html.escape(text)}</div>'


def heading(text: str) -> str:
    """Return a small heading."""
    return f'<div style="{_TEXT};font-weight:600;margin:0 0 4px">{html.escape(text)}</div>'


def table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return an HTML table; columns of numbers are aligned to the right."""
    body = [list(row) for row in rows]
    sides = ["right" if right else "left" for right in _numeric_columns(headers, body)]

    def row_html(tag: str, row: Sequence[Any], weight: str = "") -> str:
        cells = "".join(
            f'<{tag} style="padding:2px 10px 2px 0;{_TEXT};border-bottom:1px solid {_BORDER};'
            f'text-align:{side}{weight}">{html.escape(show(value))}</{tag}>'
            for value, side in zip(row, sides, strict=True)
        )
        return f"<tr>{cells}</tr>"

    head = f"<thead>{row_html('th', headers, ';font-weight:600')}</thead>" if any(headers) else ""
    lines = "".join(row_html("td", row) for row in body)
    return f'<table style="border-collapse:collapse">{head}<tbody>{lines}</tbody></table>'


def text_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a table as aligned text, two spaces between columns."""
    body = [list(row) for row in rows]
    texts = [[show(value) for value in row] for row in body]
    if any(headers):
        texts.insert(0, list(headers))
    sides = _numeric_columns(headers, body)
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(row, widths, sides, strict=True)
        ).rstrip()
        for row in texts
    )


def _numeric_columns(headers: Sequence[str], body: list[list[Any]]) -> list[bool]:
    """Tell which columns hold nothing but numbers; never so without headers."""
    columns = list(zip(*body, strict=True)) if body and any(headers) else [()] * len(headers)
    return [
        any(value is not None for value in column)
        and all(value is None or type(value) in (int, float) for value in column)
        for column in columns
    ]


def show(value: Any) -> str:
    """Return a cell's text: an absent value is a dash, a dict its items."""
    if value is None or value == "":
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {show(item)}" for key, item in value.items()) or "–"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(show, value)) or "–"
    return str(value)


def seconds(value: float | None) -> str:
    """Return a duration to about three digits: ``850 µs``, ``12.3 ms``, ``4.56 s``, ``3 m 20 s``."""
    if value is None:
        return "–"
    if value < 1e-3:
        return f"{value * 1e6:.0f} µs"
    if value < 1:
        return f"{value * 1e3:.3g} ms" if value < 0.9995 else "1.00 s"
    if value < 60:
        return f"{value:.3g} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} m {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} m"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def size(value: float | None) -> str:
    """Return a number of bytes in decimal units, as ``54 MB`` or ``1.2 GB``."""
    if value is None:
        return "–"
    for unit, limit in (("B", 1e3), ("kB", 1e6), ("MB", 1e9)):
        if value < limit:
            return f"{value / limit * 1e3:.3g} {unit}"
    return f"{value / 1e9:.3g} GB"
