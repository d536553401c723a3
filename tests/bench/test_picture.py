"""The bars."""

import xml.etree.ElementTree as ElementTree

from bench.figures import Measure
from bench.page import PICTURE
from bench.picture import LONGEST, NAME, WIDTH, picture

MEASURE = Measure("chunk", "CPU time", "per <chunk>, µs", 1e6)
SVG = "{http://www.w3.org/2000/svg}"


def test_bars_are_as_long_as_what_they_show_and_the_cheapest_comes_first() -> None:
    values = {"chunk": {"wakegate": [40e-6, 44e-6, 40e-6], "nginx": [20e-6]}}
    drawn = ElementTree.fromstring(picture([MEASURE], {"wakegate": "WakeGate", "nginx": "nginx"}, values))
    short, long = (float(bar.get("width", "0")) for bar in drawn.iter(f"{SVG}rect"))
    assert abs(long - 2 * short) < 0.2
    assert NAME + long < WIDTH
    words = [text.text for text in drawn.iter(f"{SVG}text")]
    assert words == ["CPU time per <chunk>, µs", "nginx", "20.0", "WakeGate", "40.0"]


def test_the_dearest_do_not_make_all_others_look_alike() -> None:
    values = {"chunk": {"wakegate": [20e-6], "nginx": [10e-6], "slow": [900e-6, 990e-6]}}
    names = {"wakegate": "WakeGate", "nginx": "nginx", "slow": "Slow"}
    drawn = ElementTree.fromstring(picture([MEASURE], names, values))
    short, ours, cut = (float(bar.get("width", "0")) for bar in drawn.iter(f"{SVG}rect"))
    assert abs(cut - LONGEST * short) < 0.6
    assert ours > 15
    assert len(list(drawn.iter(f"{SVG}path"))) == 1
    assert [text.text for text in drawn.iter(f"{SVG}text")][-2:] == ["Slow", "945"]


def test_what_was_not_measured_has_no_bar() -> None:
    drawn = ElementTree.fromstring(picture([MEASURE], {"nginx": "nginx"}, {}))
    assert not list(drawn.iter(f"{SVG}rect"))


def test_the_page_s_picture_is_one() -> None:
    assert len(list(ElementTree.parse(PICTURE).getroot().iter(f"{SVG}rect"))) >= 3
