"""A function that a notebook shows in full is the one that the package offers afterwards."""

from __future__ import annotations

import ast
import importlib
import inspect
import random
import re
from collections.abc import Callable
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch
from notebook_functions import NOTEBOOKS, executed, function_of
from torch.nn.functional import cross_entropy, log_softmax

from posttrain_helpers.lessons.exercises import lesson_03, lesson_11b
from posttrain_helpers.losses.kl import token_kl
from posttrain_helpers.tinyworld import formats


def body_of(function: ast.FunctionDef) -> str:
    """Return the statements without the docstring, in normal form."""
    docstring = ast.get_docstring(function) is not None
    return ast.unparse(ast.Module(function.body[docstring:], type_ignores=[]))


def test_few_shot_item_is_the_packages():
    from posttrain_helpers.generation import few_shot as prompting

    shown = function_of("00_meet_the_base_model.ipynb", "few_shot_item")
    package = ast.parse(inspect.getsource(prompting.few_shot_item)).body[0]
    assert body_of(shown) == body_of(package)


def test_masked_loss_is_pytorchs_cross_entropy_of_the_next_supervised_token():
    masked_loss = executed("01_supervised_fine_tuning.ipynb", "masked_loss")
    logits = torch.randn(3, 7, 13, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 13, (3, 7), generator=torch.Generator().manual_seed(1))
    labels[:, :3] = -100
    expected = cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
    assert masked_loss(logits, labels).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_kl_term_is_the_divergence_where_a_trained_token_is_predicted(direction: str):
    kl_term = executed("04_why_sft_fails.ipynb", "kl_term", log_softmax=log_softmax)
    policy, base = torch.randn(2, 2, 5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([[-100, 3, 4, -100, -100], [-100, -100, 1, 2, 6]])
    pair = (base, policy) if direction == "forward" else (policy, base)
    expected = token_kl(*pair)[:, :-1][labels[:, 1:] != -100].mean()
    assert kl_term(policy, base, labels, direction).item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("beta", [0, 0.2, 0.5, 1])
def test_divergence_of_lesson_11b_has_its_closed_form_and_that_of_trl(beta: float):
    from trl.experimental.gkd import GKDTrainer

    divergence = executed("11b_distillation.ipynb", "divergence")
    student, teacher = normal(0, 3, 4, 7), normal(1, 3, 4, 7)
    found = divergence(student, teacher, beta)
    assert found.shape == (3, 4)
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, labels=torch.ones(3, 4), beta=beta)
    assert found.mean().item() == pytest.approx(theirs.item(), abs=1e-6)
    if beta not in (0, 1):
        p, q = teacher[0, 0].softmax(-1).tolist(), student[0, 0].softmax(-1).tolist()
        assert found[0, 0].item() == pytest.approx(lesson_11b.jsd(p, q, beta), abs=1e-6)


def test_an_adapter_of_lesson_03_is_the_merged_weight():
    lora_output = executed("03_lora_and_qlora.ipynb", "lora_output")
    weight, x = normal(0, 3, 5), normal(1, 4, 5)
    down, up = normal(2, 2, 5), normal(3, 3, 2)
    expected = x @ lesson_03.merged(weight, down, up, 6.0).T
    torch.testing.assert_close(lora_output(x, weight, down, up, 6.0), expected)


def test_a_quantized_weight_of_lesson_03_lies_on_the_nearest_levels_of_its_block():
    quantized = executed("03_lora_and_qlora.ipynb", "quantized")
    levels = torch.tensor([-1.0, 0.0, 0.5, 1.0])
    weight = torch.tensor([[4.0, 1.1, -3.9, 0.4], [0.1, 0.02, -0.1, 0.06]])
    expected = torch.tensor([[4.0, 2.0, -4.0, 0.0], [0.1, 0.0, -0.1, 0.05]])
    torch.testing.assert_close(quantized(weight, levels, block=4), expected)


def test_lesson_03_says_what_to_install_before_it_imports_bitsandbytes():
    cells = nbformat.read(NOTEBOOKS / "03_lora_and_qlora.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert code.index("quantization=four_bits") < code.index("import bitsandbytes")


def test_the_formats_of_lesson_02_are_those_that_the_recipe_trains():
    shown = function_of("02_instruction_templates.ipynb", "render")
    assert body_of(shown) == body_of(ast.parse(inspect.getsource(formats.render)).body[0])
    cells = nbformat.read(NOTEBOOKS / "02_instruction_templates.ipynb", as_version=4).cells
    (cell,) = (cell for cell in cells if cell.source.startswith("FORMATS = {"))
    assert ast.literal_eval(ast.parse(cell.source).body[0].value) == formats.FORMATS


# What a lesson shows in full and the package offers, by notebook and module.
SHOWN = {
    ("06_direct_preference_optimization", "losses.preference"): ("dpo_loss",),
    ("06_direct_preference_optimization", "generation.likelihood"): ("completion_log_probs",),
    ("08_ppo", "losses.kl"): ("k1_estimate", "k3_estimate"),
    ("08_ppo", "losses.advantages"): ("shaped_rewards", "generalized_advantages"),
    ("08_ppo", "losses.policy"): ("clipped_policy_loss", "clipped_value_loss"),
}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


N = torch.tensor([4, 7, 2, 9])  # tokens of each completion
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]])
REWARDS = torch.tensor([1.0, 0.0, 0.25, 3.0])
COLUMNS = [normal(seed, 4) for seed in range(4)]
BELOW_ZERO = [-column.abs() - 0.1 for column in COLUMNS]
TOKENS = [normal(seed, 4, 4) for seed in range(4)]


def toy_model(input_ids: torch.Tensor, **_: object) -> SimpleNamespace:
    """Logits that depend on the tokens, of a vocabulary of five."""
    return SimpleNamespace(logits=normal(9, 5, 5)[input_ids])


# Arguments for each function that a lesson shows; every branch and every parameter is in one of them.
CALLS: dict[str, list[tuple[tuple, dict]]] = {
    "dpo_loss": [((*COLUMNS, 0.3), {})],
    "completion_log_probs": [((toy_model, N[None] % 5, torch.ones(1, 4), MASK[2:3]), {})],
    "k1_estimate": [(tuple(TOKENS[:2]), {})],
    "k3_estimate": [(tuple(TOKENS[:2]), {})],
    "shaped_rewards": [((REWARDS, *TOKENS[:2], MASK, 0.1, *kind), {}) for kind in ((), ("k3",))],
    "generalized_advantages": [((*TOKENS[:2], MASK, *discounts), {}) for discounts in ((), (0.9, 0.5))],
    "clipped_policy_loss": [((*TOKENS[:3], *bounds), {}) for bounds in ((), (0.5,), (0.1, 0.4))]
    + [((*TOKENS[:2], REWARDS[:, None]), {})],
    "clipped_value_loss": [((*TOKENS[:3], *bounds), {}) for bounds in ((), (0.5,))],
}


def test_the_judges_of_lesson_13_are_asked_what_the_judge_was_trained_on() -> None:
    from posttrain_helpers.tinyworld.training_data.judgements import JUDGE_TEMPLATE

    cells = nbformat.read(NOTEBOOKS / "13_judges.ipynb", as_version=4).cells
    assignments = [
        node
        for cell in cells
        if cell.cell_type == "code"
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TEMPLATE"
    ]
    assert [ast.literal_eval(node.value) for node in assignments] == [JUDGE_TEMPLATE]


def test_signatures_of_lesson_11a_agree_as_often_as_sets_overlap() -> None:
    signatures_of = executed("11a_training_data.ipynb", "minhash", np=np)
    sets = [set("abcdef"), set("cdefgh"), set("xyz"), set("abcdef")]
    signatures = signatures_of(sets, orders=4000)
    for one, first in zip(sets, signatures, strict=True):
        for other, second in zip(sets, signatures, strict=True):
            assert (first == second).mean() == pytest.approx(len(one & other) / len(one | other), abs=0.03)


def test_texts_without_a_run_of_words_have_signatures_in_lesson_11a() -> None:
    shingles, minhash = (
        executed("11a_training_data.ipynb", name, np=np, re=re) for name in ("shingles", "minhash")
    )
    assert shingles("Lima") == {"lima"}
    assert shingles("!") == shingles("") == {""}
    signatures = minhash([shingles("!"), shingles("Lima"), set(), shingles("lima.")])
    assert signatures.shape == (4, 256)
    assert (signatures[1] == signatures[3]).all()
    assert not (signatures[1] == signatures[2]).any()


def test_lesson_11a_keeps_what_a_slow_search_with_exact_similarities_keeps() -> None:
    minhash, kept_once = (
        executed("11a_training_data.ipynb", name, np=np) for name in ("minhash", "kept_once")
    )
    rng = random.Random(0)
    fresh = [{str(rng.randrange(10**6)) for _ in range(10)} for _ in range(30)]
    # Some lack one element of ten: all similarities are near 0, .9 or 1, so none is near the threshold.
    sets = fresh + [set(sorted(rng.choice(fresh))[1:]) for _ in range(30)]
    rng.shuffle(sets)
    kept: list[set[str]] = []
    expected = []
    for one in sets:
        expected.append(all(len(one & other) < 0.7 * len(one | other) for other in kept))
        kept += [one] if expected[-1] else []
    assert sum(expected) == 30
    assert kept_once(minhash(sets), 0.7).tolist() == expected


def test_the_constitution_of_lesson_11c_is_the_one_that_labels_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    from posttrain_helpers.generation import likelihood
    from posttrain_helpers.tinyworld.training_data import made_data

    def length(model: object, tokenizer: object, prompts: list, replies: list, batch_size: int) -> np.ndarray:
        asked = [prompt[-1]["content"] for prompt in prompts]
        return np.array(
            [len(q) ** 2 + len(r) * len(q) for q, r in zip(asked, replies, strict=True)], dtype=float
        )

    monkeypatch.setattr(likelihood, "mean_log_probs", length)
    shown = executed("11c_preference_pairs.ipynb", "constitution", mean_log_probs=length)
    items = [{"prompt": [{"role": "user", "content": text}]} for text in ("Who?", "Where is it?")]
    ours, theirs = (f(None, None, items, ["I.", "Here it is."]) for f in (shown, made_data.constitution))
    assert set(ours) == set(theirs) == set(made_data.PRINCIPLES)
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)


def drawn_arms(seed: int = 0) -> dict[str, list[tuple[int, str, str]]]:
    """Return the sets of pairs that lesson 11c makes of replies whose texts say who wrote them."""
    rng = np.random.default_rng(seed)
    strong_right, weak_right = rng.random(300) < 0.85, rng.random((300, 2)) < 0.5

    def said(author: str, verdict: bool) -> str:
        return f"{author} " + "= " * rng.integers(3) + "and " * rng.integers(4) + str(bool(verdict))

    strong = [said(f"strong {row}", ok) for row, ok in enumerate(strong_right)]
    weak = [
        [said(f"weak {row} {k}", ok) for k, ok in enumerate(group)] for row, group in enumerate(weak_right)
    ]
    weak[0], weak_right[0] = [strong[0]] * 2, strong_right[0]  # equal replies say nothing
    return sets_of_lesson_11c()(strong, weak, strong_right, weak_right, random.Random(seed))


def sets_of_lesson_11c() -> Callable:
    equations = executed("11c_preference_pairs.ipynb", "equations")
    return executed("11c_preference_pairs.ipynb", "arms_of", np=np, equations=equations)


@pytest.mark.parametrize("seed", range(3))
def test_the_sets_of_lesson_11c_are_equally_large_and_differ_in_what_they_say(seed: int) -> None:
    arms = drawn_arms(seed)
    assert len({len(rows) for rows in arms.values()}) == 1
    assert all(len({row for row, *_ in rows}) == len(rows) > 20 for rows in arms.values())
    found, graded, more, both, coin = arms.values()
    assert all(a.startswith("strong") and b.startswith("weak") and a != b for _, a, b in found + both)
    assert all(a.startswith("weak") and b.startswith("weak") for _, a, b in graded + more)
    assert all(a.endswith("True") and b.endswith("False") for _, a, b in graded)
    assert all(a.count("=") > b.count("=") for _, a, b in more)
    assert all(a.endswith("True") and b.endswith("True") for _, a, b in both + coin)
    assert [set(pair) for pair in both] == [set(pair) for pair in coin]


@pytest.mark.parametrize("seed", range(3))
def test_the_coin_of_lesson_11c_turns_half_of_the_pairs_and_favours_no_length(seed: int) -> None:
    *_, both, coin = drawn_arms(seed).values()
    assert 2 * sum(pair != other for pair, other in zip(both, coin, strict=True)) == len(both)

    def lead(rows: list[tuple[int, str, str]], size: Callable) -> float:
        return abs(np.mean([size(a) - size(b) for _, a, b in rows]))

    assert lead(coin, lambda text: text.count("=")) < 0.05
    assert lead(coin, lambda text: len(text.split())) < 0.2


def test_a_strong_model_that_is_never_right_makes_empty_sets_in_lesson_11c() -> None:
    never = np.zeros(3, bool), np.zeros((3, 2), bool)
    arms = sets_of_lesson_11c()(["a"] * 3, [["b", "="]] * 3, *never, random.Random(0))
    assert list(map(len, arms.values())) == [0] * 5


def test_the_label_by_author_of_lesson_11c_is_what_a_simulation_counts() -> None:
    label_by_author = executed("11c_preference_pairs.ipynb", "label_by_author")
    rng = np.random.default_rng(0)
    for p, q in ((0.95, 0.9), (0.6, 0.2), (0.5, 0.45)):
        strong, weak = rng.random(200_000) < p, rng.random(200_000) < q
        assert label_by_author(p, q) == pytest.approx(strong[strong != weak].mean(), abs=0.01)
    assert label_by_author(1, 1) == label_by_author(0, 0) == 0.5


def differences(shown: Callable, offered: Callable, calls: list[tuple[tuple, dict]]) -> list[str]:
    """Say by which parameters and results two functions differ."""
    first, second = (
        [(parameter.name, parameter.default, parameter.kind) for parameter in signature.parameters.values()]
        for signature in map(inspect.signature, (shown, offered))
    )
    found = [] if first == second else [f"parameters {first} and {second}"]
    for arguments, settings in calls:
        mine, theirs = shown(*arguments, **settings), offered(*arguments, **settings)
        try:
            torch.testing.assert_close(mine, theirs)
        except AssertionError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize(
    ("notebook", "module", "name"),
    [(*place, name) for place, names in SHOWN.items() for name in names],
)
def test_the_functions_that_a_lesson_shows_are_the_packages(notebook: str, module: str, name: str) -> None:
    package = importlib.import_module(f"posttrain_helpers.{module}")
    shown = executed(f"{notebook}.ipynb", name, **vars(package))
    assert not differences(shown, getattr(package, name), CALLS[name])


def test_another_result_order_or_default_is_noticed() -> None:
    def subtract(a: torch.Tensor, b: float = 1.0) -> torch.Tensor:
        return a - b

    others = {
        "result": lambda a, b=1.0: b - a,
        "order": lambda b, a=1.0: b - a,
        "default": lambda a, b=2.0: a - b,
        "required": lambda a, b: a - b,
    }
    calls = [((torch.ones(2), 3.0), {})]
    assert not differences(subtract, lambda a, b=1.0: a - b, calls)
    for name, other in others.items():
        assert differences(subtract, other, calls), name


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [5, 12, 31])
def test_the_ring_of_lesson_15_sums_up_with_the_bytes_of_its_formula(ranks: int, size: int) -> None:
    ring = executed("15_scaling_out.ipynb", "ring_all_reduce", np=np)
    generator = np.random.default_rng(size)
    arrays = [generator.integers(-9, 9, size).astype(np.float64) for _ in range(ranks)]
    before = [array.copy() for array in arrays]
    results, sent = ring(arrays)
    assert len(results) == ranks
    for result in results:
        np.testing.assert_array_equal(result, np.sum(arrays, axis=0))
    np.testing.assert_array_equal(arrays, before)
    if size % ranks == 0:
        assert sent == 2 * (ranks - 1) / ranks * arrays[0].nbytes


def test_the_bytes_of_lesson_15_are_those_of_the_paper() -> None:
    bytes_per_rank = executed("15_scaling_out.ipynb", "bytes_per_rank")
    # Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 GPUs, in GB.
    found = [bytes_per_rank(7.5, 64, stage) for stage in range(4)]
    assert found == pytest.approx([120, 31.4, 16.6, 1.9], abs=0.05)
    assert [bytes_per_rank(1, 1, stage) for stage in range(4)] == [16] * 4
