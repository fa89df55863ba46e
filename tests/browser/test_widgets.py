"""Widgets of workers, moved as people move them, answered by the worker, loaded anew."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.front_end import (
    await_idle,
    in_both,
    open_notebook,
    output,
    reload,
    run_all,
    save,
    take,
    with_cells,
)

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

    from support.lab import Desk

START = "%load_ext jupyter_pool\n%pool_start --size 3"
SLIDER = """\
%%pool_exec --hold 1h
import ipywidgets as widgets

slider = widgets.IntSlider(description="n")
label = widgets.Label("not moved yet")
out = widgets.Output()

def moved(change):
    label.value = f"{change['new']} squared is {change['new'] ** 2}"
    with out:
        print("captured", change["new"])
    print("printed", change["new"])

slider.observe(moved, "value")
display(slider, label, out)
"""
BAR = """\
%%pool_exec
from tqdm.notebook import tqdm

for _ in tqdm(range(50), desc="steps"):
    pass
"""
LEFT = """\
%%pool_exec
import ipywidgets as widgets

widgets.IntSlider(7, description="left")
"""
INTERACT = """\
%%pool_exec --hold none
import ipywidgets as widgets

@widgets.interact(x=(0, 10))
def f(x=5):
    print("x is", x)
    return x + 100
"""
FIGURES = """\
%%pool_exec --hold 1h
import anywidget, traitlets
import ipywidgets as widgets
import plotly.graph_objects as go
%matplotlib ipympl
import matplotlib.pyplot as plt

class Counter(anywidget.AnyWidget):
    _esm = '''
    function render({ model, el }) {
      const button = document.createElement("button");
      button.className = "counter";
      const show = () => { button.textContent = `counted ${model.get("n")}`; };
      button.onclick = () => model.send("count");
      model.on("change:n", show);
      show();
      el.appendChild(button);
    }
    export default { render };
    '''
    n = traitlets.Int(0).tag(sync=True)

    def __init__(self):
        super().__init__()
        self.on_msg(self.count)

    def count(self, widget, content, buffers):
        self.n += 1

plotted = go.FigureWidget(data=[go.Bar(y=[2, 1, 3])])
more = widgets.Button(description="more")
more.on_click(lambda _: plotted.add_bar(y=[3, 2, 1]))
display(Counter(), plotted, more)
fig, ax = plt.subplots(figsize=(3, 2))
ax.plot([1, 3, 2])
plt.show()
"""


def move(where: Locator, value: int) -> None:
    """Click where a slider from 0 to 100 has a value: Notebook 7 keeps arrow keys from all sliders."""
    bar = where.locator(".noUi-base").first
    bar.scroll_into_view_if_needed()
    box = bar.bounding_box()
    assert box is not None
    where.page.mouse.click(box["x"] + box["width"] * value / 100, box["y"] + box["height"] / 2)


def press(where: Locator, key: str, times: int = 1) -> None:
    handle = where.locator(".noUi-handle").first
    handle.focus()
    for _ in range(times):
        handle.press(key)


@in_both
@with_cells(START, SLIDER, BAR, LEFT)
def test_a_slider_is_answered_by_its_worker_also_when_the_page_is_loaded_anew(
    desk: Desk, page: Page
) -> None:
    open_notebook(page, desk)
    run_all(page)
    held = output(page, 1)
    held.get_by_text("not moved yet").wait_for()
    move(held, 30)
    held.get_by_text("30 squared is 900").wait_for()
    held.get_by_text("captured 30").wait_for()  # in the Output widget
    held.get_by_text("printed 30").wait_for()  # in the cell
    bar = output(page, 2)
    bar.get_by_text("50/50").wait_for()
    assert bar.locator(".progress-bar-success").evaluate(
        "bar => bar.clientWidth >= bar.parentElement.clientWidth - 2"
    )
    left = output(page, 3)
    move(left, 80)
    left.get_by_text("worker has moved on").wait_for()
    left.get_by_text("--hold 10m").wait_for()
    take(page, "widgets-before-reload")
    save(page)
    reload(page)
    await_idle(page)
    held = output(page, 1)
    held.get_by_text("30 squared is 900").wait_for()
    held.get_by_text("captured 30").wait_for()
    output(page, 2).get_by_text("50/50").wait_for()
    output(page, 3).locator(".widget-readout").get_by_text("80").wait_for()
    move(held, 40)
    held.get_by_text("40 squared is 1600").wait_for()
    held.get_by_text("captured 40").wait_for()


@with_cells(START, INTERACT)
def test_interact_shows_each_value_in_its_own_place(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_all(page)
    held = output(page, 1)
    held.get_by_text("x is 5").wait_for()
    press(held, "ArrowRight", 2)
    held.get_by_text("x is 7").wait_for()
    held.get_by_text("107").wait_for()
    assert held.get_by_text("x is 5").count() == 0


@with_cells(START, FIGURES)
@pytest.mark.requires("module:anywidget", "module:plotly", "module:ipympl")
def test_anywidget_plotly_and_ipympl_talk_to_the_worker(desk: Desk, page: Page) -> None:
    open_notebook(page, desk)
    run_all(page)
    held = output(page, 1)
    button = held.locator("button.counter")
    button.click()
    held.get_by_text("counted 1").wait_for()
    bars = held.locator(".barlayer .trace")
    bars.first.wait_for()
    held.get_by_role("button", name="more").click()
    bars.nth(1).wait_for()
    canvas = held.locator("canvas").first
    canvas.wait_for()
    page.wait_for_function(
        """() => [...document.querySelectorAll('.jupyter-matplotlib canvas')].some(canvas => {
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            return data.some(value => value !== 0 && value !== 255);
        })"""
    )
