"""Which front end has sent a request."""

from __future__ import annotations

from typing import Any

import pytest

from jupyter_pool.notebook.places import front_end


@pytest.mark.parametrize(
    ("metadata", "allow_stdin", "found"),
    [
        ({}, False, "runner"),
        ({"cellId": "a-b"}, False, "runner"),
        ({}, True, "other"),
        ({"cellId": 7}, True, "other"),
        ({"cellId": "8d9b", "deletedCells": []}, True, "notebook"),
        ({"cellId": "vscode-notebook-cell:/a.ipynb#W0"}, True, "vscode"),
    ],
)
def test_requests_tell_who_sent_them(
    metadata: dict[str, Any], allow_stdin: bool, found: str
) -> None:
    request = {"metadata": metadata, "content": {"allow_stdin": allow_stdin}}
    assert front_end(request) == found


def test_voila_shows_widgets_after_its_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5")
    assert front_end({"metadata": {}, "content": {"allow_stdin": False}}) == "other"


def test_no_request_is_of_an_unknown_front_end() -> None:
    assert front_end({}) == "other"
