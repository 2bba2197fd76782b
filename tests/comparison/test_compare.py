from __future__ import annotations

import copy
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import posttrain_helpers.comparison.compare as comparison_module
from posttrain_helpers.comparison.compare import Comparison, compare_generations, weights_fingerprint
from posttrain_helpers.comparison.scores import apply_measures, measures_of, rate
from posttrain_helpers.comparison.view import changed_words, to_text
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import Generation
from posttrain_helpers.stages.loading import load_model_and_tokenizer

CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Peru": "Lima",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
    "Cuba": "Havana",
}
ITEMS = [
    {
        "id": f"capital/{country}",
        "task": "facts",
        "prompt": [{"role": "user", "content": f"What is the capital of {country}?"}],
        "answer": city,
        "accepted": [f"The capital of {country} is {city}."],
    }
    for country, city in CAPITALS.items()
]
GOOD = [item["accepted"][0] for item in ITEMS]
BAD = ["A cow says moo. A cow"] * len(ITEMS)


def reply(text: str, stop: bool = True) -> Generation:
    return Generation(text, tuple(range(len(text.split()) + stop)), "stop" if stop else "length")


def build(replies, items=ITEMS, score="strict", equal=False, title="Capitals", **options) -> Comparison:
    """Make a comparison from texts, as if models had written them; unfinished sentences were cut."""
    generations = {
        label: [reply(text, stop=text.endswith(".")) for text in texts] for label, texts in replies.items()
    }
    measure, measures = measures_of(score)
    return Comparison(
        title=title,
        labels=tuple(replies),
        items=items,
        generations=generations,
        scores=apply_measures(measures, generations, items),
        measure=measure,
        fingerprints={label: "same" if equal else label for label in replies},
        settings={"max_new_tokens": 48, "temperature": 0.0, "batch_size": 32, "seed": 0},
        **options,
    )


class Page(HTMLParser):
    """What a browser makes of a fragment: its elements, and the text of each element by name."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[tuple[tuple[str, ...], str]] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append((tuple(self.open), data))

    def inside(self, tag: str) -> list[str]:
        return [text for path, text in self.texts if tag in path]


@pytest.fixture(scope="module")
def pair(random_model_dir: Path):
    return (
        AutoModelForCausalLM.from_pretrained(random_model_dir),
        AutoTokenizer.from_pretrained(random_model_dir),
    )


@pytest.fixture(scope="module")
def other_pair(pair):
    changed = copy.deepcopy(pair[0])
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(torch.randn_like(parameter))
    return changed, pair[1]


# --- running models ---


def test_models_by_pair_get_the_same_prompts_and_settings(pair, other_pair, monkeypatch) -> None:
    calls = []
    original = comparison_module.generate
    monkeypatch.setattr(
        comparison_module, "generate", lambda m, t, p, **kw: calls.append((p, kw)) or original(m, t, p, **kw)
    )
    result = compare_generations(
        {"one": pair, "two": other_pair}, ITEMS[:3], max_new_tokens=4, batch_size=2, seed=5
    )
    assert calls[0] == calls[1]
    assert calls[0][0] == [item["prompt"] for item in ITEMS[:3]]
    assert calls[0][1] == {"max_new_tokens": 4, "temperature": 0.0, "batch_size": 2, "seed": 5}
    assert result.labels == ("one", "two")
    assert [len(result.generations[label]) for label in result.labels] == [3, 3]
    texts = [[g.text for g in result.generations[label]] for label in result.labels]
    assert texts[0] == [g.text for g in original(*pair, calls[0][0], max_new_tokens=4, batch_size=2)]
    assert texts[0] != texts[1]
    assert not result.same_weights("two")


def test_models_by_name_are_loaded_and_freed(pair, random_model_dir: Path, monkeypatch) -> None:
    import weakref

    import posttrain_helpers.stages.loading

    loaded: list[weakref.ref] = []

    def load(name, **options):
        assert all(model() is None for model in loaded), "the model before is still in memory"
        model = AutoModelForCausalLM.from_pretrained(name)
        model.__dict__["cycle"] = [model]  # patched forwards make such cycles, which only the collector frees
        loaded.append(weakref.ref(model))
        return model, pair[1]

    monkeypatch.setattr(posttrain_helpers.stages.loading, "load_model_and_tokenizer", load)
    result = compare_generations(
        {"a": str(random_model_dir), "b": random_model_dir}, ["A cow"], max_new_tokens=2
    )
    assert len(loaded) == 2
    assert result.same_weights("b")


def test_a_directory_is_loaded_by_the_real_loader(random_model_dir: Path, pair, output_root: Path) -> None:
    result = compare_generations(str(random_model_dir), pair, ITEMS[:2], max_new_tokens=3)
    assert result.labels == ("before", "after")
    assert result.same_weights("after")
    assert [g.text for g in result.generations["before"]] == [g.text for g in result.generations["after"]]


def test_an_adapter_that_learned_nothing_has_the_weights_of_its_base(
    random_model_dir: Path, output_root: Path, tmp_path: Path
) -> None:
    lora = {"r": 2, "target_modules": "all-linear"}
    for part in load_model_and_tokenizer(random_model_dir, lora=lora, verbose=False):
        part.save_pretrained(tmp_path)
    result = compare_generations(str(random_model_dir), str(tmp_path), ITEMS[:1], max_new_tokens=2)
    assert result.same_weights(str(tmp_path))


def test_the_two_call_forms(pair, other_pair) -> None:
    prompts = ["A cow", "An owl"]
    positional = compare_generations(pair, other_pair, prompts, max_new_tokens=2)
    mapping = compare_generations({"before": pair, "after": other_pair}, prompts=prompts, max_new_tokens=2)
    assert positional.labels == mapping.labels == ("before", "after")
    assert positional.generations == mapping.generations
    assert [item["id"] for item in positional.items] == ["0", "1"]
    named = compare_generations(pair, pair, [ITEMS[1], {"prompt": "An owl"}], max_new_tokens=2)
    assert [item["id"] for item in named.items] == ["capital/Italy", "1"]
    assert named.items[0] == ITEMS[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("base", "sft"), "Two models and prompts are needed"),
        (({"a": "base", "b": "sft"}, ["x"], ["y"]), "Two models and prompts are needed"),
        (({"a": "base", "b": "sft"},), "Two models and prompts are needed"),
        (({"a": "base"}, ["x"]), "at least two models; found 1"),
        (("base", 3, ["x"]), "'after' must be a stage name.* but a int"),
        ((("model", None), "sft", ["x"]), "'before' must be a stage name"),
        (("base", "sft", []), "list of prompts is empty"),
        (("base", "sft", "one prompt"), "must be a list"),
        (("base", "sft", ITEMS[0]), "must be a list"),
        (("base", "sft", [{"question": "x"}]), r"Item 0 has no \"prompt\" among its keys \['question'\]"),
    ],
)
def test_bad_arguments_are_refused(arguments, message: str) -> None:
    with pytest.raises(CourseError, match=message):
        compare_generations(*arguments)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(CourseError, match=r"score='strikt' is unknown here; did you mean 'strict'"):
        compare_generations("base", "sft", ITEMS, score="strikt")
    with pytest.raises(CourseError, match="rows must be 0 or more"):
        build({"a": BAD, "b": GOOD}, rows=-1)
    made = build({"a": BAD, "b": GOOD})
    with pytest.raises(CourseError, match="selection='best' is unknown"):
        made.show("best")
    with pytest.raises(CourseError, match="label='c' is unknown"):
        made.result("c")
    with pytest.raises(CourseError, match="measure='bleu' is unknown"):
        made.result(measure="bleu")
    with pytest.raises(CourseError, match="None of the 8 items is kept"):
        made.where(lambda item: False)


# --- weights ---


def test_the_fingerprint_sees_one_changed_bit_and_nothing_else(pair) -> None:
    model = copy.deepcopy(pair[0])
    assert weights_fingerprint(model) == weights_fingerprint(pair[0])
    model.train()
    assert weights_fingerprint(model) == weights_fingerprint(pair[0])
    weight = model.model.layers[0].mlp.up_proj.weight
    with torch.no_grad():
        weight.view(torch.int32)[0, 0] ^= 1
    assert weights_fingerprint(model) != weights_fingerprint(pair[0])


def test_the_fingerprint_counts_tied_and_copied_embeddings_as_equal(pair) -> None:
    untied = copy.deepcopy(pair[0])
    assert untied.lm_head.weight is untied.model.embed_tokens.weight
    untied.lm_head.weight = torch.nn.Parameter(untied.lm_head.weight.detach().clone())
    assert weights_fingerprint(untied) == weights_fingerprint(pair[0])
    with torch.no_grad():
        untied.lm_head.weight[0, 0] += 1
    assert weights_fingerprint(untied) != weights_fingerprint(pair[0])


def test_the_fingerprint_includes_names_and_shapes() -> None:
    def one(name: str, *shape: int) -> torch.nn.Module:
        return torch.nn.ParameterDict({name: torch.nn.Parameter(torch.zeros(*shape))})

    prints = [weights_fingerprint(one(*key)) for key in (("a", 2, 3), ("b", 2, 3), ("a", 3, 2), ("a", 6))]
    assert len(set(prints)) == 4
    assert weights_fingerprint(one("a", 2, 3)) == prints[0]


def test_the_fingerprint_distinguishes_swapped_weights_and_reads_bfloat16(pair) -> None:
    swapped = copy.deepcopy(pair[0])
    first, second = swapped.model.layers
    first.mlp.gate_proj.weight, second.mlp.gate_proj.weight = (
        second.mlp.gate_proj.weight,
        first.mlp.gate_proj.weight,
    )
    assert weights_fingerprint(swapped) != weights_fingerprint(pair[0])
    half = copy.deepcopy(pair[0]).to(torch.bfloat16)
    assert weights_fingerprint(half) == weights_fingerprint(copy.deepcopy(half))


def test_equal_weights_are_refused_praise() -> None:
    # Replies that would be an improvement if the weights differed.
    honest, made = build({"base": BAD, "sft": GOOD}), build({"base": BAD, "sft": GOOD}, equal=True)
    assert honest.verdicts == {"sft": "improved"}
    assert made.verdicts == {"sft": "no_difference_shown"}
    assert "weights are equal" in made.reason()
    assert made.claim("capitals").verdict == "no_difference_shown"
    with pytest.raises(AssertionError):
        made.claim("capitals").check()
    html = made._repr_html_()
    assert html.index("Warning") < html.index("weights are equal") < html.index("<table")
    assert "Improved" not in html
    text = str(made)
    assert text.index("WARNING: The weights are equal") < text.index("strict")
    assert "Improved" not in text
    assert "Warning" not in honest._repr_html_()


def test_the_warning_stands_first_whatever_the_order() -> None:
    made = build({"base": BAD, "sft": GOOD, "again": BAD})
    made.fingerprints["again"] = made.fingerprints["base"]
    html = made._repr_html_()
    assert html.index("&#39;again&#39; is the same model") < html.index("&#39;sft&#39; against")


# --- scores and verdicts ---


def test_scores_and_rates() -> None:
    lenient_only = "It is Paris"
    made = build({"base": [lenient_only, *BAD[1:]], "sft": GOOD})
    assert made.scores["base"]["strict"] == [False] * 8
    assert made.scores["base"]["lenient"] == [True] + [False] * 7
    assert made.scores["base"]["stop"] == [False] * 8
    assert made.scores["sft"] == {"strict": [True] * 8, "lenient": [True] * 8, "stop": [True] * 8}
    assert rate(made.scores["base"]["lenient"])["mean"] == pytest.approx(1 / 8)
    right = rate(made.scores["sft"]["strict"])
    # Wilson, n = 8, k = 8: n / (n + z^2) to 1.
    assert right["low"] == pytest.approx(8 / (8 + 1.959964**2), abs=1e-6)
    assert right["high"] == pytest.approx(1.0)
    result = made.result()
    assert (result.n, result.before, result.after, result.up) == (8, 0.0, 1.0, 8)
    assert made.result(measure="lenient").up == 7
    assert "8 up, 0 down" in made.reason()
    assert made.claim("capitals known").check().metric == "strict"


@pytest.mark.parametrize("name", ["n", "tokens", "strict"])
def test_a_score_called_like_a_column_is_called_score(name: str) -> None:
    def own(reply: str, item: dict) -> float:
        return 100.0

    own.__name__ = name
    assert measures_of(own)[0] == "score"
    summary = build({"base": BAD, "sft": GOOD}, score=own).summary()
    assert (summary.loc["base", "n"], summary.loc["base", "score"]) == (8, 100.0)


def test_the_interval_of_a_rate_knows_the_relations() -> None:
    values = [True, True, None, False, False, True, True, False, False]
    plain, clustered = rate(values), rate(values, ["a", "a", "a", "b", "b", "c", "c", "d", "d"])
    assert (plain["n"], plain["mean"]) == (clustered["n"], clustered["mean"]) == (8, 0.5)
    assert clustered["low"] < plain["low"]
    assert clustered["high"] > plain["high"]
    made = build({"base": [*BAD[:4], *GOOD[4:]], "sft": GOOD})
    alone = made.rates()["base"]["strict"]
    pairs = [{**item, "relation": f"r{index // 2}"} for index, item in enumerate(made.items)]
    assert replace(made, items=pairs).rates()["base"]["strict"]["low"] < alone["low"]


def test_a_claim_of_a_comparison_takes_measure_margin_and_lowest_score() -> None:
    # Every reply of the second holds the answer, but only half of them are whole sentences: too few to tell.
    bare = ["It is " + item["answer"] for item in ITEMS]
    made = build({"a": BAD, "b": [*GOOD[:4], *bare[4:]]}, score="strict")
    claim = made.claim("holds the answer", measure="lenient", at_least=0.9)
    assert (claim.metric, claim.after, claim.at_least, claim.held) == ("lenient", 1.0, 0.9, True)
    low = made.claim("whole replies", "no_difference_shown", at_least=0.9)
    assert (low.metric, low.after, low.verdict, low.held) == ("strict", 0.5, "no_difference_shown", False)
    with pytest.raises(AssertionError, match=r"needs at least 0\.9, but found 0\.5"):
        low.check()
    assert made.claim("no worse", "non_inferior", measure="lenient", margin=0.1).held


def test_items_of_one_relation_are_one_cluster() -> None:
    items = [{**item, "id": f"{item['id']}/{i}", "relation": f"r{i}"} for item in ITEMS for i in range(2)]
    story = {"id": "story", "task": "stories", "prompt": "Once", "answer": None}
    made = build(
        {
            "a": ["One.", *BAD * 2, "One.", "One."],
            "b": ["Two.", *np.repeat(GOOD, 2).tolist(), "Two.", "Two."],
        },
        [story, *items, {**story, "relation": None}, {**story, "relation": None}],
    )
    won = made.result()
    assert (won.n, won.up, won.clusters) == (16, 16, 2)
    assert won.p == 2 * 0.5**2
    assert made.verdicts == {"b": "no_difference_shown"}
    assert made.claim("capitals", "no_difference_shown").held
    assert "16 held-out prompts in 2 clusters" in made.reason()
    # Stories have no relation: each counts on its own.
    assert made.result(measure="stop").clusters == 5
    # Within one relation its items are what is compared.
    one = made.where(lambda item: item.get("relation") == "r1").result()
    assert (one.n, one.clusters, one.p) == (8, None, 2 * 0.5**8)


def test_worse_and_unchanged() -> None:
    assert build({"a": GOOD, "b": BAD}).verdicts == {"b": "worse"}
    assert build({"a": GOOD, "b": GOOD}).verdicts == {"b": "no_difference_shown"}


def test_each_other_model_is_compared_with_the_first() -> None:
    made = build({"base": BAD, "sft": GOOD, "dpo": GOOD})
    assert made.verdicts == {"sft": "improved", "dpo": "improved"}
    assert made.claim("x", label="sft").n == 8


def test_items_that_cannot_be_scored_are_left_out() -> None:
    story = {"id": "story", "task": "stories", "prompt": "Once", "answer": None}
    made = build({"a": [*BAD, "upon"], "b": [*GOOD, "there."]}, [*ITEMS, story])
    assert made.result().n == 8
    assert made.scores["a"]["strict"][-1] is None
    assert made.result(measure="stop").n == 9
    only_stories = made.where(lambda item: item["task"] == "stories")
    assert only_stories.result() is None
    assert only_stories.verdicts == {"b": None}
    assert "Nothing was scored" in only_stories.reason()
    assert "Nothing was scored" in only_stories._repr_html_()
    assert "Nothing was scored" in str(only_stories)
    with pytest.raises(CourseError, match="has no evidence"):
        only_stories.claim("stories end")


def test_a_measure_without_data_names_the_one_with() -> None:
    items = [{key: item[key] for key in ("id", "prompt", "answer")} for item in ITEMS]
    made = build({"a": BAD, "b": GOOD}, items)
    assert made.verdicts == {"b": None}
    assert "They could be by score='lenient'" in made.reason()
    assert build({"a": BAD, "b": GOOD}, items, score="lenient").verdicts == {"b": "improved"}


def test_own_scores() -> None:
    def length(text: str, item: dict) -> float:
        return np.float32(len(text))

    made = build({"a": BAD, "b": GOOD}, score=length)
    assert made.measure == "length"
    assert made.scores["b"]["length"] == [float(len(text)) for text in GOOD]
    assert made.result().kind == "numeric"
    assert made.result().difference == pytest.approx(np.mean([len(g) for g in GOOD]) - len(BAD[0]))
    rated = rate(made.scores["a"]["length"])
    assert (rated["mean"], rated["low"]) == (len(BAD[0]), None)
    flag = build({"a": BAD, "b": GOOD}, score=lambda text, item: np.bool_(item["answer"] in text))
    assert flag.measure == "score"
    assert flag.scores["b"]["score"] == [True] * 8
    assert flag.result().kind == "binary"


def test_an_own_score_cannot_pose_as_a_built_in_one() -> None:
    def strict(text: str, item: dict) -> bool:
        return True

    assert build({"a": BAD, "b": GOOD}, score=strict).measure == "score"
    assert build({"a": BAD, "b": GOOD}, score=strict).scores["a"]["strict"] == [False] * 8

    def stop(text: str, item: dict) -> float:
        return 0.5

    made = build({"a": BAD, "b": GOOD}, score=stop)
    assert (made.measure, made.scores["b"]["score"], made.scores["b"]["stop"]) == (
        "score",
        [0.5] * 8,
        [True] * 8,
    )


def test_one_item_with_a_number_gives_no_verdict_and_no_error() -> None:
    made = build({"a": BAD[:1], "b": GOOD[:1]}, ITEMS[:1], score=lambda text, item: len(text) / 7)
    assert made.result() is None
    assert "One item was scored" in made.reason()
    assert "One item was scored" in made._repr_html_()
    assert build({"a": BAD[:1], "b": GOOD[:1]}, ITEMS[:1]).result().up == 1


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "good", [1.0]])
def test_a_score_that_is_no_number_is_refused(value) -> None:
    with pytest.raises(CourseError, match=r"finite number.*'capital/France'"):
        build({"a": BAD, "b": GOOD}, score=lambda text, item: value)


def test_a_score_that_is_missing_for_one_model_only_is_refused() -> None:
    with pytest.raises(CourseError, match="cannot be paired"):
        build({"a": BAD, "b": GOOD}, score=lambda text, item: None if "moo" in text else 1.0)


# --- which rows are shown ---


def test_rows_are_evenly_spaced_and_selected() -> None:
    made = build({"a": [*GOOD[:2], *BAD[2:]], "b": [*GOOD[:1], BAD[1], *GOOD[2:]]}, rows=4)
    assert made.shown() == [0, 2, 4, 6]
    assert replace(made, rows=100).shown() == list(range(8))
    assert replace(made, rows=0).shown() == []
    assert replace(made, rows=8).show("up").shown() == [2, 3, 4, 5, 6, 7]
    assert made.show("down").shown() == [1]
    assert replace(made, rows=8).show("changed").shown() == [1, 2, 3, 4, 5, 6, 7]
    assert made.show("all").shown() == made.shown()
    assert made.show("down").result() == made.result()  # a look at some rows changes no number
    assert "1 of 1 prompts whose score fell" in str(made.show("down"))


def test_where_restricts_numbers_too() -> None:
    made = build({"a": BAD, "b": [*GOOD[:3], *BAD[3:]]})
    part = made.where(lambda item: item["answer"] in ("Paris", "Rome", "Tokyo"))
    assert (part.result().n, part.result().after) == (3, 1.0)
    assert [g.text for g in part.generations["b"]] == GOOD[:3]
    later = made.where(lambda item: item["answer"] in ("Tokyo", "Havana"))
    assert [g.text for g in later.generations["b"]] == [GOOD[2], BAD[7]]
    assert later.scores["b"]["strict"] == [True, False]


# --- HTML and text ---

NASTY = '<b>bold</b> <script>alert("x")</script> & $5 < $7 \x1b[31mred\x00'


def test_html_escapes_everything_that_is_not_ours() -> None:
    item = {"id": "<i>1", "prompt": "<h1>Hi</h1>", "answer": "<u>x", "accepted": ["<u>x"]}
    made = build({"<em>a": [NASTY], "b<img src=x>": [NASTY + "<td>"]}, [item], title="<style>*{}</style>")
    page = Page(made._repr_html_())
    ours = {"div", "table", "thead", "tbody", "tr", "th", "td", "code", "ins", "b", "span"}
    assert set(page.tags) <= ours
    replies = "".join(page.inside("code"))
    assert '<b>bold</b> <script>alert("x")</script> & $5 < $7' in replies
    assert "\x1b" not in made._repr_html_()
    assert "\x00" not in made._repr_html_()
    # The two replies differ by one tag, and it is marked as text.
    assert "".join(page.inside("ins")).startswith("<td>")


def test_html_shows_both_replies_scores_and_stop_reasons_side_by_side() -> None:
    made = build({"base": BAD, "sft": GOOD}, rows=2)
    page = Page(made._repr_html_())
    code = "".join(page.inside("code"))
    for index in made.shown():
        assert BAD[index] in code
        assert GOOD[index] in code
        assert ITEMS[index]["prompt"][0]["content"] in code
    badges = page.inside("span")
    assert badges == ["✗ strict", "✗ lenient", "cut at 6 tokens", "✓ strict", "✓ lenient", "stopped"] * 2
    marked = page.inside("ins")
    assert marked == ["The capital of France is Paris", "The capital of Peru is Lima", "Marked"]
    assert page.tags.count("tr") == 3 + 2 * 2
    # One row holds the replies of both models.
    reply_row = made._repr_html_().split("<tr")[-1]
    assert reply_row.count("<td") == 2


def test_html_keeps_line_breaks_and_shows_empty_replies() -> None:
    page = Page(build({"a": ["One.\nTwo."], "b": [""]}, ITEMS[:1])._repr_html_())
    assert "br" in page.tags
    assert "(empty reply)" in page.inside("code")


def test_html_brings_its_styles_and_fixes_no_theme() -> None:
    html = build({"base": BAD, "sft": GOOD})._repr_html_()
    assert "<style" not in html
    assert "class=" not in html
    colours = re.findall(r"(?:color|background|border[a-z-]*):([^;\"]+)", html)
    assert colours
    for colour in colours:
        allowed = re.fullmatch(
            r"transparent|inherit|0|collapse|[\d.]+(em|px)|(\dpx solid )?rgba\([\d.,]+\)", colour
        )
        assert allowed, colour


@pytest.mark.parametrize(
    ("before", "after", "new"),
    [
        ("A cow says moo.", "A cow says hi.", ["hi"]),
        ("A cow.", "A cow.", []),
        ("", "New text", ["New text"]),
        ("A cow.", "A cow", []),
        ("four", "4 legs\n\nThe end", ["4 legs\n\nThe end"]),
    ],
)
def test_changed_words(before: str, after: str, new: list[str]) -> None:
    pieces = changed_words(before, after)
    assert "".join(piece for piece, _ in pieces) == after
    assert [piece for piece, changed in pieces if changed] == new


@pytest.mark.parametrize("width", [40, 60, 120])
def test_text_wraps_to_the_width(width: int) -> None:
    made = build({"base": BAD, "sft": [text + " And so on." * 9 for text in GOOD]}, rows=3)
    text = to_text(made, width)
    assert max(map(len, text.splitlines())) <= width
    flat = " ".join(text.split())
    assert flat.count("And so on.") == 27
    assert "What is the capital of France?" in flat
    assert "(strict no, lenient no, cut at 6 tokens)" in flat


def test_text_obeys_no_control_characters() -> None:
    made = build({"a": [NASTY], "b": ["One.\nTwo."]}, ITEMS[:1])
    assert "\x1b" not in str(made)
    assert r"One. \n Two." in str(made)


def test_summary_has_one_row_per_model_and_the_means_of_parts() -> None:
    def parts(reply: str, item: dict) -> dict[str, float]:
        return {"names the city": item["answer"] in reply, "words": len(reply.split())}

    table = build({"base": BAD, "sft": GOOD}).summary(parts)
    assert table.loc["base"].to_dict() == {
        **{"n": 8, "strict": 0, "lenient": 0, "stop": 0, "tokens": 6},
        **{"names the city": 0, "words": 6},
    }
    assert table.loc["sft", ["strict", "stop", "names the city"]].tolist() == [1, 1, 1]
    assert table.n.tolist() == [8, 8]
    assert "words" not in build({"base": BAD, "sft": GOOD}).summary()


def test_summary_leaves_empty_what_nothing_was_scored_for() -> None:
    items = [{"id": "story", "prompt": [{"role": "user", "content": "Tell a story."}]}]
    assert build({"a": ["One."], "b": ["Two."]}, items).summary()["strict"].isna().all()


def test_importing_the_module_loads_no_torch() -> None:
    code = (
        "import sys, posttrain_helpers.comparison.compare; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'pandas', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_plain_form_in_a_notebook_is_the_short_table() -> None:
    comparison = build({"a": GOOD, "b": BAD}, title="Plain form")
    assert repr(comparison) == str(comparison)
    assert "Plain form" in repr(comparison)
    assert "Generation(" not in repr(comparison)
