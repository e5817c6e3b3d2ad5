"""A model looks the same everywhere, and can be told apart by everyone."""

import matplotlib as mpl
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from retrograde.figures import theme

MODELS = pd.CategoricalDtype(["elman", "gru", "lstm (hidden=4)", "lstm (hidden=8)", "transformer"])


def test_a_model_keeps_its_look_in_a_table_that_holds_it_alone():
    everyone = theme.looks(pd.Series(MODELS.categories).astype(MODELS))
    alone = theme.looks(pd.Series(["transformer"]).astype(MODELS))
    assert alone["transformer"] == everyone["transformer"]


def test_colour_is_the_family_and_dash_the_variant():
    looks = theme.looks(pd.Series(["gru"]).astype(MODELS))
    four, eight = looks["lstm (hidden=4)"], looks["lstm (hidden=8)"]
    assert four.colour == eight.colour != looks["gru"].colour
    assert four.dash != eight.dash


def test_more_families_than_colours_still_differ():
    names = [f"model{number:02d}" for number in range(2 * len(theme.FAMILIES))]
    looks = theme.looks(pd.Series(names).astype(pd.CategoricalDtype(names)))
    assert len({(look.colour, str(look.dash)) for look in looks.values()}) == len(names)


def test_families_stand_out_from_the_light_and_the_dark_ground():
    for ground, least in ((theme.PAPER, 2.2), ("#1a1f24", 3.0)):  # 3:1 for the first four; orange and sky are lighter
        assert min(theme.contrast(colour, ground) for colour in theme.FAMILIES) > least
        assert min(theme.contrast(colour, ground) for colour in theme.FAMILIES[:4]) > 2.95


def test_contrast_is_that_of_wcag():
    assert theme.contrast("#000000", "#ffffff") == 21
    assert round(theme.contrast("#777777", "#ffffff"), 2) == 4.48  # known as the grey that just fails 4.5:1


def test_the_process_keeps_its_own_settings():
    before = mpl.rcParams["font.size"]
    with theme.applied():
        assert mpl.rcParams["font.size"] == theme.SETTINGS["font.size"]
    assert mpl.rcParams["font.size"] == before


def test_four_panels_stand_two_by_two_with_numbers_at_the_outer_ones():
    _, panels = theme.panels(4, 2)
    assert [panel.get_subplotspec().rowspan.start for panel in panels] == [0, 0, 1, 1]
    assert [panel.xaxis.get_tick_params()["labelbottom"] for panel in panels] == [False, False, True, True]
    assert [panel.yaxis.get_tick_params()["labelleft"] for panel in panels] == [True, False, True, False]


@pytest.mark.parametrize(
    "labels",
    [
        ["gru", "lstm", "elman", "irnn", "transformer"],
        ["gru (width=10, hidden=10, layers=1, bidirectional=True)"] * 4,
        ["lstm", "gru (width=16, hidden=16, bidirectional=False)", "seq2seq_bahdanau", "transformer (scaling=False)"]
        * 2,
    ],
)
def test_no_entry_of_a_legend_is_cut_off_the_figure(labels):
    with mpl.rc_context(theme.SETTINGS):
        figure = Figure(figsize=(theme.WIDTH, 3), layout="constrained")
        figure.subplots()
        handles = [Line2D([], [], label=label) for label in labels]
        legend = figure.legend(
            handles=handles, loc="outside lower center", ncols=theme.columns(labels, 5), handlelength=3
        )
        FigureCanvasAgg(figure).draw()
        box = legend.get_window_extent()
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width


def test_no_text_is_a_formula() -> None:
    with theme.applied():
        assert not Figure().text(0, 0, "a_$1$").get_parse_math()


@pytest.mark.parametrize(
    ("settings", "limits", "ticks"),
    [
        ({"value": "log"}, (1e-12, 1e3), {"10⁻¹⁰", "10⁰", "10²"}),
        ({"value": "log", "base": 2}, (0.25, 16), {"2⁻²", "2⁰", "2⁴"}),
        ({"value": "log"}, (0.015, 0.09), {"2×10⁻²", "6×10⁻²"}),
        ({"value": "symlog"}, (-100, 100), {"-10²", "0", "10¹"}),
    ],
)
def test_ticks_of_logarithmic_axes_have_raised_digits(settings, limits, ticks: set[str]) -> None:
    with theme.applied():
        figure = Figure()
        axes = figure.subplots()
        axes.set_yscale(**settings)
        axes.set_ylim(*limits)
        theme.write_powers(figure)
        FigureCanvasAgg(figure).draw()
        shown = {label.get_text() for label in [*axes.get_yticklabels(), *axes.get_yticklabels(minor=True)]}
    assert ticks <= shown
    assert not any("$" in text or "^" in text for text in shown)
