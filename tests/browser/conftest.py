"""A headless Chromium, and a page that reports what went wrong in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.lab import QuickstartServer
from support.optional import find_chromium, find_missing

if TYPE_CHECKING:
    from playwright.sync_api import Page

# For people to look at; `.ci/run` and the workflow keep it.
ARTIFACTS = Path(__file__).parents[2] / ".artifacts" / "browser"

_FLAGS = [
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    # /dev/shm is small in containers: Chromium would crash when it is full.
    "--disable-dev-shm-usage",
]


#: What JupyterLab's own parts say on the console, and is no error of ours: its debugger complains when
#: a kernel is restarted before it has told its state; Notebook 7.6's keyboard shortcuts, also where the
#: panel is not installed, when the settings of others are there before their own.
_OTHERS = (
    "Could not restore the debugger state: Canceled future for debug_request",
    "uncaught: Cannot read properties of undefined (reading 'schema')",
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[QuickstartServer]:
    """JupyterLab on a fresh copy of the quickstart."""
    with QuickstartServer(tmp_path) as server:
        yield server


@pytest.fixture
def page(request: pytest.FixtureRequest, server: QuickstartServer) -> Iterator[Page]:
    """A page of a fresh browser; at the end there was no error on its console.

    It closes before the server does, so that the end of the server is not an error.
    """
    missing = find_missing("chromium")
    if missing:
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    flags = list(_FLAGS)
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # its sandbox refuses to run as root
    said: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=flags, headless=True
        )
        page = browser.new_page(viewport={"width": 1280, "height": 900}, device_scale_factor=2)
        page.set_default_timeout(30_000)
        page.on("console", lambda m: said.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: said.append(f"uncaught: {error}"))
        page.on(
            "response",
            lambda r: said.append(f"{r.status} {r.url}") if r.status >= 400 else None,
        )
        yield page
        ARTIFACTS.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=ARTIFACTS / f"{request.node.name}.png")
        browser.close()
    assert [text for text in said if not text.startswith(_OTHERS)] == []
