"""Where there is no pool the extension costs nothing: it sends nothing, and has no timer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from support.front_end import open_notebook, run_cell, with_cells

if TYPE_CHECKING:
    from playwright.sync_api import Page, WebSocket

    from support.lab import Desk

#: Notes who sets a timer or asks for a frame, if that is code of the extension (and not the loader that
#: fetches it when the page is loaded).
NOTE_TIMERS = """
window.timersOfOurs = [];
for (const name of ["setTimeout", "setInterval", "requestAnimationFrame"]) {
    const real = window[name];
    window[name] = function (...given) {
        const caller = new Error().stack.split("\\n")[2] ?? "";
        if (caller.includes("/jupyter-pool/") && !caller.includes("/remoteEntry."))
            window.timersOfOurs.push(`${name} ${caller}`);
        return real.apply(this, given);
    };
}"""


@with_cells("1 + 1", "%load_ext jupyter_pool", "2 + 2", "%pool_start --size 1;")
def test_without_a_pool_nothing_is_sent_and_no_timer_is_set(desk: Desk, page: Page) -> None:
    told: list[bytes] = []

    def note(frame: str | bytes) -> None:
        data = frame.encode() if isinstance(frame, str) else frame
        if b'"pool_' in data:  # a message's type
            told.append(data)

    def listen(socket: WebSocket) -> None:
        socket.on("framesent", note)
        socket.on("framereceived", note)

    page.on("websocket", listen)
    page.add_init_script(NOTE_TIMERS)
    open_notebook(page, desk)
    for index in range(3):
        run_cell(page, index)
    assert page.locator("#jupyter-pool-panel").count() == 1
    assert told == []
    assert page.evaluate("timersOfOurs") == []
    # And with one both are noticed here.
    run_cell(page, 3)
    page.locator(".jpm-status", has_text="pool 0/1 busy").wait_for()
    kinds = [
        kind
        for kind in (b'"pool_list"', b'"pool_hello"', b'"pool_state"')
        if any(kind in one for one in told)
    ]
    assert len(kinds) == 3
    assert page.evaluate("timersOfOurs.length") >= 1
