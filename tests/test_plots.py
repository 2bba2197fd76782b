import re
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import pytest
import torch

from posttrain_helpers.errors import CourseError
from posttrain_helpers.plots import (
    TokenView,
    live_curve,
    plot_intervals,
    plot_next_token,
    show_tokens,
)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def test_next_token_bars_are_the_softmax_at_each_temperature(random_model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    logits = torch.randn(len(tokenizer), generator=torch.Generator().manual_seed(0))
    figure = plot_next_token(logits, tokenizer, (0.5, 2.0), top=3)
    for axes, temperature in zip(figure.axes, (0.5, 2.0), strict=True):
        expected = (logits / temperature).softmax(-1).topk(3).values.tolist()
        assert [bar.get_width() for bar in axes.patches] == pytest.approx(expected)
    with pytest.raises(CourseError, match="above 0"):
        plot_next_token(logits, tokenizer, (0.0,))


def test_intervals_stand_beside_their_labels():
    groups = {"gold": {"sft": (1.0, 0.5, 2.0)}, "judge": {"sft": (2.0, 1.0, 2.5), "dpo": (3.0, 2.0, 4.0)}}
    (axes,) = plot_intervals(groups, "rating").axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sft", "dpo"]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == list(groups)
    lines = [line for line in axes.lines if len(line.get_xdata()) and line.get_marker() in "os"]
    assert [list(line.get_xdata()) for line in lines] == [[1.0], [2.0, 3.0]]
    assert lines[0].get_ydata()[0] < 0 < lines[1].get_ydata()[0]  # two groups have this label: side by side
    ends = [bar.get_segments()[0][:, 0].tolist() for bar in axes.collections]
    assert ends[0] == pytest.approx([0.5, 2.0])


def test_a_live_curve_draws_what_was_logged(monkeypatch):
    import posttrain_helpers.plots as plots

    drawn = []
    monkeypatch.setattr(plots, "display_figure", lambda figure, alt, handle: drawn.append(figure))
    history = [
        {"step": 5, "loss": 2.0},
        {"step": 10, "loss": 1.0, "kl": None},
        {"step": 10, "train_runtime": 3.0},
    ]
    callback = live_curve()
    callback.on_train_end(None, SimpleNamespace(log_history=history, global_step=10, max_steps=10), None)
    line = drawn[0].axes[0].lines[0]
    assert line.get_xdata().tolist() == [5, 10]
    assert line.get_ydata().tolist() == [2.0, 1.0]


def test_live_curve_shows_the_last_state(monkeypatch):
    import IPython.display

    shown = []

    def show(data, **options):
        shown.append(options["metadata"]["image/png"]["alt"])
        return SimpleNamespace(update=show)

    monkeypatch.setattr(IPython.display, "display", show)
    callback = live_curve(("loss",), every=2)
    state = SimpleNamespace(log_history=[], global_step=0, max_steps=6)
    for step in range(1, 6):
        state.global_step = step
        state.log_history.append({"step": step, "loss": 1.0 / step})
        callback.on_log(None, state, None)
    assert len(shown) == 2
    callback.on_train_end(None, state, None)
    assert shown[-1] == "Learning curve over 5 optimizer steps: loss from 1 to 0.2."


def test_live_curve_leaves_out_steps_without_the_metric(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda *_, **options: shown.append(options["metadata"]))
    callback = live_curve(("m",))
    state = SimpleNamespace(log_history=[{"step": 1, "m": None}], global_step=1, max_steps=3)
    callback.draw(state)
    assert shown == []
    state.log_history += [{"step": 2, "m": 0.5}, {"step": 3, "m": None}]
    callback.draw(state)
    assert shown[0]["image/png"]["alt"].startswith("Learning curve over 2 optimizer steps: m from 0.5")


def test_live_curve_says_how_long_it_still_takes(monkeypatch):
    import IPython.display

    from posttrain_helpers import plots

    titles = []
    draw = plots._draw_training

    def spy(history, keys, title):
        titles.append(title)
        return draw(history, keys, title)

    seconds = iter((100.0, 104.0, 110.0))
    monkeypatch.setattr(plots, "_draw_training", spy)
    monkeypatch.setattr(plots, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    monkeypatch.setattr(
        IPython.display, "display", lambda *_, **__: SimpleNamespace(update=lambda *_, **__: None)
    )
    callback = live_curve(every=1)
    # Resumed after step 20: the pace is that of the steps of this run.
    state = SimpleNamespace(log_history=[], global_step=20, max_steps=2000)
    callback.on_train_begin(None, state, None)
    for step in (40, 1995):
        state.global_step = step
        state.log_history.append({"step": step, "loss": 1.0})
        callback.on_log(None, state, None)
    state.global_step = 2000
    callback.on_train_end(None, state, None)
    assert titles == [
        "step 40 of 2,000, about 6 min 32 s left",
        "step 1,995 of 2,000, about 0.0 s left",
        "step 2,000 of 2,000",
    ]


def test_live_curve_without_the_metric_draws_nothing():
    callback = live_curve(("reward",), every=1)
    callback.on_log(
        None, SimpleNamespace(log_history=[{"step": 1, "loss": 1.0}], global_step=1, max_steps=1), None
    )
    assert callback.handle is None


def test_tokens_are_escaped_and_the_supervised_ones_marked(random_model_dir):
    view = TokenView(["<b>", " a", "\n"], [True, False, False])
    assert "<b>" not in view._repr_html_()
    assert view._repr_html_().count("supervised: counts in the loss") == 1
    assert str(view) == "[<b>] a\n"
    with pytest.raises(CourseError, match="2 tokens and 1 entries"):
        TokenView(["a", "b"], [True])


def test_supervised_tokens_can_be_told_without_colour():
    page = TokenView(["a", "b"], [True, False])._repr_html_()
    supervised, other = re.findall(r'<span title="[^"]*" style="([^"]*)">', page)
    assert "font-weight:bold" in supervised
    assert "border-bottom:3px solid #" in supervised
    assert "font-weight" not in other
    assert "border-bottom:3px solid transparent" in other
    assert "bold and underlined: counts in the loss" in page
    assert "underlined" not in TokenView(["a"], [False])._repr_html_()


def test_shown_tokens_spell_the_text(random_model_dir):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_model_dir)
    text = "The capital of France is Paris."
    assert "".join(show_tokens(tokenizer(text).input_ids, tokenizer).tokens) == text
