"""The figure of a preset."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from fake_papers import claim, preset, ran, rows_of
from retrograde.figures.papers.drawing import draw
from retrograde.figures.papers.table import COLUMNS
from retrograde.figures.papers.words import outcome_in_words


def test_the_figure_says_the_outcome_and_has_a_panel_a_quantity(tmp_path: Path):
    papers = preset(tmp_path, claim(), claim(of="sequences", band="[null, 900]"), seeds="0,1")
    rows = rows_of(tmp_path, papers, ran("lstm", 0), ran("lstm", 1, solved=False))
    figure = draw(rows)
    assert figure.get_suptitle().replace("\n", " ") == outcome_in_words(rows)
    labels = [axes.get_xlabel() for axes in figure.axes]
    assert labels == ["test score", "sequences seen until solved", "horizon (lags)"]
    without = [{**row, "horizons_before": "", "horizons_after": ""} for row in rows]
    assert len(draw(without).axes) == 2


def test_no_label_of_a_figure_lies_on_another():
    """Six claims of three quantities, words as long as they come."""
    says = "An Elman network never learns the outer symbol within 500,000 sequences, however it is tuned"
    kinds = {
        "solved": {"seeds": "1;1;0", "ours": "0.666667", "low": "0.2", "high": "0.9", "band_low": "0.8"},
        "sequences": {"seeds": "700;9100;inf", "ours": "9100", "low": "700", "high": "inf", "band_high": "8440"},
        "score": {"seeds": "0.91;0.92;0.98", "ours": "0.94", "low": "0.91", "high": "0.98", "band_low": "0.95"},
    }
    names = "lstm_1997", "orthogonal_rnn (length=100)"
    rows = [
        dict.fromkeys(COLUMNS, "")
        | {"source": "Hochreiter & Schmidhuber 1997, table 1", "says": says, "models": name, "quantity": quantity}
        | {"aggregate": "max", "max": "0.98", "published": "1", "verdict": "not reproduced", "lag": "1000"}
        | {"horizons_before": "3;4;5", "horizons_after": "100;900;990", "trivial": "0", "trivial_rule": "always 1"}
        | {"shallow": "0.3", "shallow_rule": "last 10 steps", "solved_from": "0.94"}
        | given
        for quantity, given in kinds.items()
        for name in names
    ]
    figure = draw(rows)
    FigureCanvasAgg(figure).draw()
    texts = [text for text in figure.findobj(Text) if text.get_text() and text.get_visible()]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts]
    assert len(boxes) > 30
    for place, (one, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, one
        for other, another in boxes[:place]:
            assert not box.overlaps(another), (one, other)


def test_a_wide_range_is_drawn_over_decades(tmp_path: Path):
    papers = preset(tmp_path, claim(of="sequences", published=10, band="[5, 20]"), seeds="0")
    rows = rows_of(tmp_path, papers, ran("lstm", 0, solved_step=1000))
    assert draw(rows).axes[0].get_xscale() == "log"


def test_nothing_is_drawn_where_no_claim_has_a_value(tmp_path: Path):
    assert draw(rows_of(tmp_path, preset(tmp_path, claim()), ran("lstm", 0))) is None
