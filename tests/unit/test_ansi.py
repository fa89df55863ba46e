"""Terminal escape sequences as HTML, and without."""

from __future__ import annotations

import pytest

from jupyter_pool import _ansi
from jupyter_pool._reprs import output_html

RED = "color:#d6403a"
BOLD = "font-weight:bold"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a < b", "a &lt; b"),
        ("\x1b[31ma < b\x1b[0m c", f'<span style="{RED}">a &lt; b</span> c'),
        (
            "\x1b[31;1mx\x1b[39my\x1b[22mz",
            f'<span style="{RED};{BOLD}">x</span><span style="{BOLD}">y</span>z',
        ),
        ("\x1b[91mx\x1b[m!", f'<span style="{RED}">x</span>!'),
        (
            "\x1b[30mblack is the page's own\x1b[37m, as white",
            "black is the page&#x27;s own, as white",
        ),
        ("\x1b[38;5;28mx", '<span style="color:rgb(0,135,0)">x</span>'),
        ("\x1b[38;5;9mx", f'<span style="{RED}">x</span>'),
        ("\x1b[38;5;255mx", '<span style="color:rgb(238,238,238)">x</span>'),
        ("\x1b[38;2;1;2;300mx", '<span style="color:rgb(1,2,255)">x</span>'),
        ("\x1b[3;4mx", '<span style="font-style:italic;text-decoration:underline">x</span>'),
    ],
)
def test_text_is_escaped_and_in_the_colours_asked_for(text: str, shown: str) -> None:
    assert _ansi.to_html(text) == shown


def test_a_ground_is_a_tint() -> None:
    assert "background:color-mix(in srgb, #17883c 25%, transparent)" in _ansi.to_html("\x1b[42mx")
    assert _ansi.to_html("\x1b[42m\x1b[49mx") == "x"


@pytest.mark.parametrize(
    "odd",
    [
        "\x1b[2J",  # clears the screen
        "\x1b]8;;https://example.org\x07",
        "\x1b[38m",
        "\x1b[38;5m",
        "\x1b[98m",
        "\x1b[1234567m",
        "\x1b[" + "9" * 5000 + "m",
        "\x1b(B",
    ],
)
def test_what_is_no_colour_is_left_out(odd: str) -> None:
    assert _ansi.to_html(f"a{odd}b") == "ab"
    assert _ansi.strip(f"a{odd}b") == "ab"


def test_a_traceback_keeps_its_colours_and_a_bar_is_what_it_ends_as() -> None:
    error = {"output_type": "error", "traceback": ["\x1b[31mValueError\x1b[0m: <no>"]}
    assert f'<span style="{RED}">ValueError</span>: &lt;no&gt;' in output_html(error)
    bar = {"output_type": "stream", "name": "stderr", "text": "\x1b[32m10%\r\x1b[32m20%\r\n"}
    assert ">20%" in output_html(bar)
    assert "span" not in output_html(bar)
