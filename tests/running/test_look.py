"""The look at a screenshot finds what is amiss: else the other tests' looks say nothing."""

import re

import pytest
from browser_look import look
from running_web import chromium

FINE = "<h1>Flights</h1><p id=told>Late: 12</p>"
RED = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as made:
        yield made


@pytest.mark.parametrize(
    ("markup", "region", "amiss"),
    [
        ("<h1 style='color: white'>Flights</h1>", "body", "blank: body"),
        (FINE + "<canvas width=90 height=90></canvas>", "canvas", "blank: canvas"),
        (FINE + "<img src='data:image/png;base64,AAAA' width=9 height=9>", "body", "not loaded"),
        (FINE + f'<img src="{RED}" width=0 height=9>', "body", "without a size: img"),
        (FINE + "<svg width=0 height=9></svg>", "body", "without a size: svg"),
        (FINE + f'<img src="{RED}">', "body", None),
        (FINE + "<p style='width: 2000px'>wide</p>", "body", "wider than the window"),
        (
            FINE + "<pre style='width: 70px; overflow: hidden'>a base rate of 35.0 %</pre>",
            "body",
            "cut off: a base rate",
        ),
        (FINE + "<p style='margin-left: -30px'>to the left</p>", "body", "cut off: to the left"),
    ],
)
def test_what_is_amiss_is_found_and_what_is_not_is_let_be(browser, markup, region, amiss):
    page = browser.new_page(viewport={"width": 600, "height": 300})
    page.set_content(markup)
    if amiss is None:
        look(page, "Flights", regions=("body", region))
    else:
        with pytest.raises(AssertionError, match=re.escape(amiss)):
            look(page, "Flights", regions=("body", region))
    page.close()
