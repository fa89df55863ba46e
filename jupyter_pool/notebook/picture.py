"""A state of a pool as a still picture: HTML with SVG, and text.

For where no widget can be: nbconvert, GitHub, `%pool_monitor --html`. It has the monitor's own marks
and takes its colours from the theme's variables, with literals for where there are none.
"""

from __future__ import annotations

import html
from collections import deque
from dataclasses import dataclass
from typing import Any

from jupyter_pool import _reprs

__all__ = ["LastState", "Picture", "picture"]

State = dict[str, Any]

_BRAND = "var(--jp-brand-color1, var(--vscode-charts-blue, #1976d2))"
_FINISHED = "var(--jp-brand-color3, var(--vscode-charts-lines, #90caf9))"
_ERROR = "var(--jp-error-color1, var(--vscode-errorForeground, #d32f2f))"
_WARN = "var(--jp-warn-color1, var(--vscode-editorWarning-foreground, #f57c00))"
_QUIET = "var(--jp-ui-font-color2, var(--vscode-descriptionForeground, #757575))"
_TEXT = "var(--jp-ui-font-color1, var(--vscode-foreground, currentColor))"
_LINE = "var(--jp-border-color2, var(--vscode-panel-border, #bdbdbd))"

#: The picture's width, the gutter's, a lane's height and its blocks', in pixels.
_WIDTH, _GUTTER, _LANE, _BLOCK = 720, 110, 20, 13
#: What it shows, in seconds, and how many lanes at most.
_SPAN, _LANES = 60.0, 48

_TAKEN = ("busy", "leased", "interrupting", "resetting")
_WRONG = {"operation_timeout": _WARN, "checkout_timeout": _WARN}


@dataclass(frozen=True, slots=True)
class Picture:
    """The same as HTML and as text."""

    html: str
    text: str

    def bundle(self) -> dict[str, str]:
        """By MIME type."""
        return {"text/html": self.html, "text/plain": self.text}


class LastState:
    """The last minute of a pool, put together from snapshots that hold only the news.

    When the pool has closed, what it was like before stays.
    """

    def __init__(self) -> None:
        self._state: State = {}
        self._news: deque[tuple[float, list[dict[str, Any]]]] = deque()
        #: Whether the pool has closed.
        self.closed = False

    def take(self, state: State) -> None:
        """Take in the next snapshot."""
        workers = self._state.get("workers", [])
        gone = bool(workers) and state["state"] in ("none", "closed")
        if state["full"] and not gone:
            self._news.clear()
        elif self._news and self._news[0][0] < state["now"] - 2 * _SPAN:
            self._news.popleft()
        if state["blocks"]:
            self._news.append((state["now"], state["blocks"]))
        if gone:
            errors = max(self._state["error_count"], state["error_count"])
            self._state = {**self._state, "now": state["now"], "error_count": errors}
        elif state["state"] == "closing":
            stopping = {worker["id"]: {**worker, "state": "stopping"} for worker in workers}
            there = {worker["id"]: worker for worker in state["workers"]}
            self._state = {**state, "workers": [*{**stopping, **there}.values()]}
        else:
            self._state = state
        self.closed = gone

    def close(self) -> None:
        """Nothing more comes."""
        self.closed = bool(self._state.get("workers"))

    def picture(self) -> Picture:
        """Draw it."""
        blocks = {block["id"]: block for _, news in self._news for block in news}
        state = {**self._state, "blocks": [*blocks.values()]}
        if self.closed:
            workers = [{**worker, "state": "closed"} for worker in state["workers"]]
            state |= {"state": "closed", "waiting": 0, "reason": None, "workers": workers}
        return picture(state)


def picture(state: State) -> Picture:
    """Draw a snapshot that holds the blocks of the last minute."""
    headline = _headline(state)
    lines = [f"Pool {state['pool']}: {headline}", *_trouble(state)]
    if state["state"] == "none":
        hint = f"%%pool_exec starts one of {state['size']} workers."
        return Picture(f'<div style="color:{_QUIET}">{_e(headline)} {_e(hint)}</div>',
                       f"{headline} {hint}")  # fmt: skip
    body = (
        f'<div style="color:{_TEXT};font-variant-numeric:tabular-nums">'
        f"<b>{_e(state['pool'])}</b> · {_e(headline)}</div>"
    )
    body += "".join(f'<div style="color:{_ERROR}">{_e(line)}</div>' for line in _trouble(state))
    if state["workers"]:
        body += _svg(state)
    table = [(w["id"], w["state"], _reprs.size(w["memory"]), w["served"]) for w in state["workers"]]
    text = _reprs.text_table(("worker", "state", "memory", "served"), table) if table else ""
    return Picture(f'<div style="max-width:{_WIDTH}px">{body}</div>',
                   "\n".join([*lines, *(f"  {line}" for line in text.splitlines())]))  # fmt: skip


def _headline(state: State) -> str:
    if state["state"] == "none":
        return f"No pool named {state['pool']!r} in this kernel."
    if state["state"] == "new":
        return "not started"
    if state["state"] == "closed":
        failed = state["error_count"]
        return f"closed · {failed} failed" if failed else "closed"
    workers = state["workers"]
    busy = sum(worker["state"] in _TAKEN for worker in workers)
    parts = [f"{busy} of {state['size']} busy"]
    if state["state"] == "closing":
        parts.insert(0, "closing")
    if state["waiting"]:
        oldest = ""
        if state["waiting_since"] is not None:
            oldest = f", oldest {_reprs.seconds(max(0.0, state['now'] - state['waiting_since']))}"
        parts.append(f"{state['waiting']} waiting{oldest}")
    if state["rate"]:
        parts.append(f"{state['rate']:.3g}/s")
    if state["error_count"]:
        parts.append(f"{state['error_count']} failed")
    return " · ".join(parts)


def _trouble(state: State) -> list[str]:
    return [f"its workers do not start: {state['reason']}"] if state["reason"] else []


def _svg(state: State) -> str:
    workers = state["workers"][:_LANES]
    lane, block = (_LANE, _BLOCK) if len(workers) <= 12 else (10, 8)
    top = 12
    height = top + lane * len(workers)
    rows = {worker["id"]: top + lane * number for number, worker in enumerate(workers)}
    now, within = state["now"], (lane - block) / 2
    parts = [
        _capacity(state),
        *(_row(worker, rows[worker["id"]], lane, now) for worker in workers),
        *(
            _block(one, rows[one["worker"]] + within, block, now)
            for one in state["blocks"]
            if one["started"] is not None and one["worker"] in rows
        ),
    ]
    label = html.escape(f"Pool {state['pool']}: {_headline(state)}", quote=True)
    return (
        f'<svg role="img" aria-label="{label}" viewBox="0 0 {_WIDTH} {height}" width="100%" '
        f'style="display:block;max-width:{_WIDTH}px;font:11px system-ui,sans-serif">'
        f"{''.join(parts)}</svg>"
    )


def _capacity(state: State) -> str:
    """One cell for each slot, full where it is taken, then what waits, beyond a tick."""
    slots = state["size"] + state["overflow"]
    waiting = min(state["waiting"], 20)
    cell = min(28.0, _WIDTH / max(1, slots + waiting / 2 + 1))
    taken = sum(worker["state"] in _TAKEN for worker in state["workers"])
    parts = []
    for slot in range(slots):
        fill = _BRAND if slot < taken else "none"
        edge = _LINE if slot < state["size"] else _QUIET
        parts.append(_rect(slot * cell + 0.5, 0.5, cell - 2, 5, fill, edge))
    if waiting:
        parts.append(_rect(slots * cell, 0, 2, 8, _WARN))
        parts += [
            _rect(slots * cell + 5 + n * cell / 2, 0.5, cell / 2 - 2, 5, _WARN)
            for n in range(waiting)
        ]
    return "".join(parts)


def _row(worker: dict[str, Any], y: float, lane: float, now: float) -> str:
    middle = y + lane / 2
    taken = worker["state"] in _TAKEN
    dashes = ' stroke-dasharray="2 2"' if worker["state"] == "starting" else ""
    fill = _BRAND if taken else "none"
    glyph = (
        f'<circle cx="6" cy="{middle:g}" r="3.5"{dashes} '
        f'style="fill:{fill};stroke:{_BRAND if taken else _QUIET}"/>'
    )
    line = _rect(_GUTTER, y + lane - 0.5, _WIDTH - _GUTTER, 0.5, _LINE)
    if lane < _LANE:
        return glyph + line
    words = _reprs.seconds(max(0.0, now - worker["since"])) if taken else worker["state"]
    return (
        f'{glyph}<text x="16" y="{middle + 4:g}" style="fill:{_TEXT}">{worker["id"]}</text>'
        f'<text x="38" y="{middle + 4:g}" style="fill:{_QUIET}">{_e(words)}</text>{line}'
    )


def _block(one: dict[str, Any], y: float, height: float, now: float) -> str:
    scale = (_WIDTH - _GUTTER) / _SPAN
    ended = now if one["ended"] is None else one["ended"]
    if ended < now - _SPAN or one["kind"] == "lease":
        return ""
    left = _WIDTH - min(_SPAN, now - one["started"]) * scale
    width = max(1.5, _WIDTH - max(0.0, now - ended) * scale - left)
    outcome = one["outcome"]
    fill = _BRAND if outcome is None else _FINISHED
    drawn = _rect(left, y, width, height, fill)
    if outcome in ("cancelled", "restarted", "closed"):
        drawn = _rect(left + 0.5, y + 0.5, max(0.5, width - 1), height - 1, "none", _QUIET)
    elif outcome not in (None, "ok"):
        edge = _WRONG.get(outcome, _ERROR)
        drawn += _rect(left + width - min(3, width), y, min(3, width), height, edge)
    title = html.escape((one["code"] or "").split("\n")[0][:80])
    return f"<g><title>{title}</title>{drawn}</g>"


def _rect(x: float, y: float, width: float, height: float, fill: str, edge: str = "") -> str:
    stroke = f";stroke:{edge}" if edge else ""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(0, width):.1f}" height="{height:g}" rx="1" '
        f'style="fill:{fill}{stroke}"/>'
    )


def _e(text: object) -> str:
    return html.escape(str(text))
