"""From a kernel's iopub messages to the outputs a notebook would store.

The rules are the notebook format's (4.5) and those that Jupyter front ends
share: adjacent texts of one stream are one output; `clear_output(wait=True)`
takes effect when the next output arrives; an update of a display replaces the
data of every output with its display id that is still there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["Output", "OutputCollector"]

Output = dict[str, Any]


class _Stream:
    """A stream's text in parts: a million small prints are joined only once."""

    __slots__ = ("name", "parts")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.parts = [text]

    def as_output(self) -> Output:
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return {"output_type": "stream", "name": self.name, "text": self.parts[0]}


class OutputCollector:
    """Collects the outputs of one request, in arrival order.

    Not thread-safe: it belongs to the thread that reads the worker's messages.
    """

    __slots__ = ("_by_display_id", "_clear_before_next", "_items")

    def __init__(self) -> None:
        self._items: list[_Stream | Output] = []
        self._by_display_id: dict[str, list[Output]] = {}
        self._clear_before_next = False

    def add(self, msg_type: str, content: Mapping[str, Any]) -> Output | None:
        """Take in one iopub message.

        Returns
        -------
        dict or None
            The event for `on_output`, or None if the message is no output.
            ``output_type`` is that of the notebook format, with ``transient``
            for displays, or one of two more: ``update_display_data`` (data,
            metadata, transient) and ``clear_output`` (wait). An event shares
            no mutable part with what is stored, except values within the data.
        """
        if msg_type == "stream":
            return self._add_stream(content.get("name", "stdout"), content.get("text", ""))
        if msg_type in ("display_data", "execute_result"):
            return self._add_display(msg_type, content)
        if msg_type == "update_display_data":
            data, metadata, transient = _display_parts(content)
            self._update(transient.get("display_id"), data, metadata)
            return _event(msg_type, data, metadata, transient)
        if msg_type == "clear_output":
            wait = bool(content.get("wait", False))
            if wait:
                self._clear_before_next = True
            else:
                self._clear()
            return {"output_type": "clear_output", "wait": wait}
        if msg_type == "error":
            return self._add_error(content)
        return None

    def shows(self, display_id: str | None) -> bool:
        """Whether there is a display with this id."""
        return display_id in self._by_display_id

    @property
    def display_outputs(self) -> list[Output]:
        """The outputs so far as notebook-format dicts; a copy, later messages do not change it."""
        return [
            item.as_output() if isinstance(item, _Stream) else dict(item) for item in self._items
        ]

    def _add_stream(self, name: str, text: str) -> Output | None:
        if not text:
            return None
        self._before_output()
        last = self._items[-1] if self._items else None
        if isinstance(last, _Stream) and last.name == name:
            last.parts.append(text)
        else:
            self._items.append(_Stream(name, text))
        return {"output_type": "stream", "name": name, "text": text}

    def _add_display(self, msg_type: str, content: Mapping[str, Any]) -> Output:
        self._before_output()
        data, metadata, transient = _display_parts(content)
        output: Output = {"output_type": msg_type, "data": data, "metadata": metadata}
        if msg_type == "execute_result":
            output["execution_count"] = content.get("execution_count")
        display_id = transient.get("display_id")
        if display_id:
            # Showing a display anew also updates where it was shown before.
            self._update(display_id, data, metadata)
            self._by_display_id.setdefault(display_id, []).append(output)
        self._items.append(output)
        event = _event(msg_type, data, metadata, transient)
        if msg_type == "execute_result":
            event["execution_count"] = output["execution_count"]
        return event

    def _add_error(self, content: Mapping[str, Any]) -> Output:
        self._before_output()
        output: Output = {
            "output_type": "error",
            "ename": content.get("ename", ""),
            "evalue": content.get("evalue", ""),
            "traceback": list(content.get("traceback") or ()),
        }
        self._items.append(output)
        return {**output, "traceback": list(output["traceback"])}

    def _update(
        self, display_id: str | None, data: dict[str, Any], metadata: dict[str, Any]
    ) -> None:
        for output in self._by_display_id.get(display_id or "", ()):
            # New dicts, since those handed out earlier are to stay as they were.
            output["data"] = dict(data)
            output["metadata"] = dict(metadata)

    def _before_output(self) -> None:
        if self._clear_before_next:
            self._clear()

    def _clear(self) -> None:
        self._items.clear()
        self._by_display_id.clear()
        self._clear_before_next = False


def _display_parts(
    content: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return data, metadata, transient; kernels leave them out or send null."""
    return (
        dict(content.get("data") or {}),
        dict(content.get("metadata") or {}),
        dict(content.get("transient") or {}),
    )


def _event(
    msg_type: str, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any]
) -> Output:
    return {
        "output_type": msg_type,
        "data": dict(data),
        "metadata": dict(metadata),
        "transient": transient,
    }
