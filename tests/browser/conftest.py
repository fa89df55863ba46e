"""A headless Chromium, and pages that report what went wrong in them.

The tests of a file share a server and a browser. Each has a folder, kernels, settings and a browser
profile of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.front_end import take
from support.lab import Desk, FrontEnd, QuickstartServer
from support.optional import find_chromium, find_missing

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, Response

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

# What others have to complain about, in their own parts of the page, each where it happens only
# (JupyterLab 4.6.6, Notebook 7.6.5, jupyterlab_widgets 3.0.17). With this package's panel disabled a
# page of Notebook 7 had the shortcuts' complaint at each of 8 loads, and of two pages on one kernel both
# had the comm's each of 4 times; the others come now and then, on a busy machine.

#: A restart cancels what JupyterLab has just asked the kernel for: its debugger, at the news of the
#: restart, for its state; ipywidgets for a subshell of its comm. Only where a kernel was restarted.
_CANCELLED = (
    "Could not restore the debugger state: Canceled future for debug_request",
    "uncaught: Error: Canceled future for create_subshell_request",
)
#: ipywidgets asks each new page's kernel for widgets, by a comm. A kernel without ipywidgets closes it,
#: which other pages hear of, too. Only where there are others.
_COMM = "Comm not found for comm id"
#: ipywidgets draws what a page had before it has heard from the kernel, if that is slow. Only where a
#: page was loaded anew, and thrown in its own files; that the widget is there in the end, tests look for.
_NO_MODEL = "Error: widget model not found"
#: Only in Notebook 7, and thrown in its own files. Its shortcuts change their own settings before
#: those are loaded, if others' come first (seen at each load of a page); its file browser opens the
#: page's path before there is the command to do so, if the machine is slow.
_NOTEBOOK_7 = (
    "TypeError: Cannot read properties of undefined (reading 'schema')",
    "Error: Command 'filebrowser:open-path' not registered.",
)
_OWN_FILES = re.compile(r"https?://[^)\s]*")


class Console:
    """What the pages of a test had to complain about."""

    def __init__(self) -> None:
        self._said: list[str] = []
        self._pages = self._loads = 0
        self._restarted = False

    def watch(self, page: Page) -> None:
        self._pages += 1
        page.on("console", self._printed)
        page.on("pageerror", self._threw)
        page.on("response", self._answered)
        page.on("request", self._asked)

    def errors(self) -> list[str]:
        others = (*_CANCELLED * self._restarted, *(_COMM,) * (self._pages > 1))
        return [
            text
            for text in self._said
            if not text.startswith(others)
            and not (self._loads > self._pages and _is_thrown_by_ipywidgets(text))
        ]

    def _printed(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self._said.append(message.text)

    def _threw(self, error: Error) -> None:
        thrown = error.stack or str(error)
        files = _OWN_FILES.findall(thrown)
        if not (thrown.startswith(_NOTEBOOK_7) and all("/static/notebook/" in f for f in files)):
            self._said.append(f"uncaught: {thrown}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._said.append(f"{response.status} {response.url}")

    def _asked(self, request: Request) -> None:
        self._restarted |= request.method == "POST" and "/restart" in request.url
        self._loads += request.is_navigation_request() and request.frame.parent_frame is None


def _is_thrown_by_ipywidgets(text: str) -> bool:
    files = _OWN_FILES.findall(text)
    return text.startswith(_NO_MODEL) and all("/@jupyter-widgets/" in file for file in files)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent:
            item.add_marker(pytest.mark.requires("chromium"))
            item.add_marker("slow")
            item.add_marker(pytest.mark.timeout(400))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickstartServer]:
    """JupyterLab, Notebook 7 on the same server, for the tests of a file."""
    with QuickstartServer(tmp_path_factory.mktemp("lab")) as server:
        yield server


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    missing = find_missing("chromium")
    if missing:
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    flags = list(_FLAGS)
    if os.geteuid() == 0:
        flags.append("--no-sandbox")  # its sandbox refuses to run as root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=flags, headless=True
        )
        yield browser
        browser.close()


@pytest.fixture
def front_end() -> FrontEnd:
    """Which one a test's notebook is opened in; a test may be parametrised with both."""
    return "lab"


@pytest.fixture
def cells() -> list[str]:
    """Those of a test's notebook; a test is parametrised with its own."""
    return []


@pytest.fixture
def desk(
    request: pytest.FixtureRequest,
    server: QuickstartServer,
    front_end: FrontEnd,
    cells: list[str],
) -> Iterator[Desk]:
    """A folder on the server, with a notebook of these cells."""
    number = len(list(server.folder.iterdir()))
    folder = server.folder / f"desk-{number}"
    folder.mkdir()
    desk = Desk(server, folder, front_end)
    if cells:
        desk.write(*cells)
    yield desk
    server.clear()


@pytest.fixture
def new_page(
    request: pytest.FixtureRequest, desk: Desk, browser: Browser
) -> Iterator[Callable[[], Page]]:
    """Opens pages, each as of another person; at the end there was no error on any console.

    They close before the desk is cleared, so that the end of kernels is not an error.
    """
    console = Console()
    pages: list[Page] = []

    def open_one() -> Page:
        context = browser.new_context(
            viewport={"width": 1280, "height": 900}, device_scale_factor=2
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        console.watch(page)
        pages.append(page)
        return page

    yield open_one
    for number, page in enumerate(pages):
        take(page, request.node.name + (f"-{number + 1}" if number else ""))
        page.context.close()
    assert console.errors() == []


@pytest.fixture
def page(new_page: Callable[[], Page]) -> Page:
    return new_page()
