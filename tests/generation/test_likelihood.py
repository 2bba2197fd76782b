"""Log-probabilities of completions equal TRL's; the estimates of the KL are right on average."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset
from tokenizers.processors import TemplateProcessing
from torch.nn.functional import kl_div
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation import likelihood as divergence
from posttrain_helpers.generation.decoding import encode_prompts, generate
from posttrain_helpers.generation.likelihood import (
    completion_log_probs,
    encode_completions,
    kl_to_reference,
    mean_log_probs,
)
from posttrain_helpers.losses.kl import k1_estimate, k3_estimate, token_kl

PROMPTS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What says a cow?"}],
    [{"role": "user", "content": "3 + 4 ="}],
]
CHOSEN = ["The capital of France is Paris.", "moo", "7"]
REJECTED = ["Paris", "A cow says moo moo moo moo moo.", "3 + 4 = 8"]
# Sums of up to 100 nats in float32: two ways to one sum differ by 1e-5, a token too many or too few by 0.1.
SUM_CLOSE = 2e-4


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path):
    return AutoTokenizer.from_pretrained(random_model_dir)


@pytest.fixture
def reference(random_model_dir: Path):
    return AutoModelForCausalLM.from_pretrained(random_model_dir).eval()


@pytest.fixture
def policy(uneven_model):
    return uneven_model


class TestCompletionLogProbs:
    def test_equal_trls_row_by_row(self, policy, tokenizer, tmp_path: Path) -> None:
        from trl import DPOConfig, DPOTrainer

        def reply(text: str) -> list[dict[str, str]]:
            return [{"role": "assistant", "content": text}]

        rows = [
            {"prompt": prompt, "chosen": reply(chosen), "rejected": reply(rejected)}
            for prompt, chosen, rejected in zip(PROMPTS, CHOSEN, REJECTED, strict=True)
        ]
        batch = encode_completions(tokenizer, PROMPTS * 2, CHOSEN + REJECTED)
        with torch.no_grad():
            ours = completion_log_probs(policy, **batch)
        trainer = DPOTrainer(
            model=policy,
            args=DPOConfig(
                str(tmp_path),
                use_cpu=True,
                bf16=False,
                activation_checkpointing=False,
                per_device_train_batch_size=len(rows),
                train_sampling_strategy="sequential",
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        theirs = next(iter(trainer.get_train_dataloader()))
        for name in ("input_ids", "attention_mask", "completion_mask"):
            assert torch.equal(batch[name], theirs[name])
        expected = torch.cat(trainer.compute_ref_log_probs(trainer.model, theirs))
        assert torch.allclose(ours, expected, rtol=0, atol=SUM_CLOSE)
        trainer.model.train()
        trainer.compute_loss(trainer.model, theirs)
        trainer.log({})
        metrics = trainer.state.log_history[-1]
        assert metrics["logps/chosen"] == pytest.approx(ours[:3].mean().item(), abs=SUM_CLOSE)
        assert metrics["logps/rejected"] == pytest.approx(ours[3:].mean().item(), abs=SUM_CLOSE)

    def test_are_exactly_the_completions_tokens(self, policy, tokenizer) -> None:
        batch = encode_completions(tokenizer, PROMPTS[:1], ["Paris."])
        ids, mask = batch["input_ids"][0], batch["completion_mask"][0]
        assert tokenizer.decode(ids[mask == 1]) == "Paris.<|im_end|>\n"
        with torch.no_grad():
            scores = policy(ids[None]).logits[0].log_softmax(-1)
            sums = completion_log_probs(policy, **batch)
        positions = mask.nonzero().flatten().tolist()
        by_hand = sum(scores[position - 1, ids[position]].item() for position in positions)
        assert sums.item() == pytest.approx(by_hand, abs=SUM_CLOSE)
        # The classic mistake: position t does not predict token t.
        unshifted = sum(scores[position, ids[position]].item() for position in positions)
        assert abs(sums.item() - unshifted) > 0.1

    def test_padding_has_no_influence(self, policy, tokenizer) -> None:
        with torch.no_grad():
            together = completion_log_probs(policy, **encode_completions(tokenizer, PROMPTS, CHOSEN))
            alone = [
                completion_log_probs(policy, **encode_completions(tokenizer, [prompt], [text])).item()
                for prompt, text in zip(PROMPTS, CHOSEN, strict=True)
            ]
        assert together.tolist() == pytest.approx(alone, abs=SUM_CLOSE)

    def test_gradients_flow(self, policy, tokenizer) -> None:
        completion_log_probs(policy, **encode_completions(tokenizer, PROMPTS, CHOSEN)).sum().backward()
        assert policy.get_input_embeddings().weight.grad.abs().sum() > 0


def test_half_precision_is_widened_first() -> None:
    """bfloat16 has 8 bits: sums of probabilities that are computed in it are off by 1e-3 or more."""
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (3 * torch.randn(1, 9, 50, generator=generator) for _ in range(2))
    half, other_half = ours.bfloat16(), theirs.bfloat16()
    ids, ones = torch.arange(9)[None], torch.ones(1, 9, dtype=torch.long)

    def log_probs(logits: torch.Tensor) -> float:
        return completion_log_probs(lambda **_: SimpleNamespace(logits=logits), ids, ones, ones).item()

    assert log_probs(half) == pytest.approx(log_probs(half.double()), rel=1e-5)
    torch.testing.assert_close(
        token_kl(half, other_half), token_kl(half.float(), other_half.float()), atol=1e-5, rtol=1e-5
    )


class TestEncodeCompletions:
    def test_texts_and_messages_are_the_same(self, tokenizer) -> None:
        texts = encode_completions(tokenizer, PROMPTS, CHOSEN)
        messages = [[{"role": "assistant", "content": text}] for text in CHOSEN]
        as_messages = encode_completions(tokenizer, PROMPTS, messages)
        assert all(torch.equal(texts[name], as_messages[name]) for name in texts)
        assert set(texts) == {"input_ids", "attention_mask", "completion_mask"}

    def test_a_prompt_that_renders_differently_alone(self, tokenizer) -> None:
        # Some templates close an empty thought in the generation prompt only; the reply starts before it.
        thinking = copy.deepcopy(tokenizer)
        opening = "{{- '<|im_start|>assistant\\n' -}}\n{%- endif"
        assert thinking.chat_template.count(opening) == 1
        thinking.chat_template = thinking.chat_template.replace(
            opening, opening.replace("assistant\\n", "assistant\\n(no thought)")
        )
        batch = encode_completions(thinking, PROMPTS[:1], ["Paris."])
        assert (
            thinking.decode(batch["input_ids"][0][batch["completion_mask"][0] == 1]) == "Paris.<|im_end|>\n"
        )

    def test_a_tokenizer_that_begins_every_text_with_a_token(self, tokenizer) -> None:
        # As Llama's does; the template has written that token already, where it belongs.
        begins = copy.deepcopy(tokenizer)
        begin, token = tokenizer.pad_token, tokenizer.pad_token_id
        begins.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, token)]
        )
        assert begins("Paris.")["input_ids"] == [token, *tokenizer("Paris.")["input_ids"]]
        expected = encode_completions(tokenizer, PROMPTS, CHOSEN)
        batch = encode_completions(begins, PROMPTS, CHOSEN)
        assert all(torch.equal(batch[name], expected[name]) for name in expected)

    @pytest.mark.parametrize(
        ("prompts", "completions", "message"),
        [
            (PROMPTS, CHOSEN[:2], "3 prompts and 2 completions"),
            (["What?"], ["That."], "Prompt 0 must be a list of messages .* 'What\\?'"),
            (PROMPTS[:1], [7], "Completion 0 must be a text or a list of messages .* 7"),
            (PROMPTS[:1], [[{"role": "user", "content": "Hi."}]], "begins with the assistant's"),
            ([[*PROMPTS[0], {"role": "assistant", "content": "Paris."}]], ["Paris."], "already in it"),
            ([], [], "list is empty"),
        ],
    )
    def test_bad_input_is_refused(self, tokenizer, prompts, completions, message: str) -> None:
        with pytest.raises(CourseError, match=message):
            encode_completions(tokenizer, prompts, completions)

    def test_a_tokenizer_that_cannot_serve_is_refused(self, tokenizer) -> None:
        bare = copy.deepcopy(tokenizer)
        bare.pad_token = None
        with pytest.raises(CourseError, match="no padding token"):
            encode_completions(bare, PROMPTS, CHOSEN)
        bare.chat_template = None
        with pytest.raises(CourseError, match="no chat template"):
            encode_completions(bare, PROMPTS, CHOSEN)


def two_distributions() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, 7, generator=generator) for _ in range(2))


class TestTokenKL:
    def test_equals_the_closed_form_and_the_common_mistakes_do_not(self) -> None:
        policy, reference = two_distributions()
        p, q = policy.softmax(-1), reference.softmax(-1)
        closed = (p * (p / q).log()).sum(-1)
        assert closed.shape == (2, 3)
        assert torch.allclose(token_kl(policy, reference), closed, atol=1e-6)
        # Without log_target kl_div takes the logarithm of the log-probabilities: not a number.
        without = kl_div(reference.log_softmax(-1), policy.log_softmax(-1), reduction="none").sum(-1)
        assert without.isnan().all()
        # With the arguments in the order of the formula it is the divergence of the reference.
        swapped = kl_div(policy.log_softmax(-1), reference.log_softmax(-1), log_target=True, reduction="none")
        assert (swapped.sum(-1) - closed).abs().max() > 0.1

    def test_logits_need_no_normalisation(self) -> None:
        policy, reference = two_distributions()
        assert torch.allclose(token_kl(policy + 5, reference - 3), token_kl(policy, reference), atol=1e-5)
        assert torch.allclose(token_kl(policy, policy + 1), torch.zeros(2, 3), atol=1e-5)

    def test_double_precision_stays_and_its_gradient_is_that_of_finite_differences(self) -> None:
        policy, reference = (logits.double().requires_grad_() for logits in two_distributions())
        assert token_kl(policy, reference).dtype == torch.float64
        assert torch.autograd.gradcheck(token_kl, (policy, reference))

    def test_a_token_that_the_policy_never_writes_adds_nothing(self) -> None:
        policy, reference = torch.tensor([0.0, 0.0, -1e4]), torch.tensor([0.0, 0.0, 0.0])
        assert token_kl(policy, reference).item() == pytest.approx(np.log(3 / 2), abs=1e-5)


class TestEstimates:
    def test_are_unbiased_and_flipped_signs_are_not(self) -> None:
        policy, reference = (logits.log_softmax(-1) for logits in two_distributions())
        exact = token_kl(policy, reference)

        def expected(estimate: torch.Tensor) -> torch.Tensor:
            return (policy.exp() * estimate).sum(-1)  # the mean over tokens sampled from the policy

        assert torch.allclose(expected(k1_estimate(policy, reference)), exact, atol=1e-6)
        assert torch.allclose(expected(k3_estimate(policy, reference)), exact, atol=1e-6)
        for flipped in (k1_estimate(reference, policy), k3_estimate(reference, policy)):
            assert (expected(flipped) - exact).abs().min() > 1e-2

    def test_k3_is_never_negative_and_k1_is(self) -> None:
        policy, reference = (logits.log_softmax(-1) for logits in two_distributions())
        assert (k3_estimate(policy, reference) >= 0).all()
        assert (k1_estimate(policy, reference) < 0).any()
        assert k3_estimate(torch.tensor(-1.0), torch.tensor(-1.0)) == 0

    def test_k3_is_exact_for_policies_that_hardly_differ(self) -> None:
        # Half the square of a small log ratio; exp() of it rounds to seven digits around 1.
        assert k3_estimate(torch.tensor(0.0), torch.tensor(1e-4)).item() == pytest.approx(5e-9, rel=0.01)

    def test_k1_as_a_loss_moves_nothing(self) -> None:
        logits, reference = two_distributions()

        def gradient(estimate) -> torch.Tensor:
            leaf = logits.clone().requires_grad_()
            policy = leaf.log_softmax(-1)
            (policy.exp().detach() * estimate(policy, reference.log_softmax(-1))).sum().backward()
            return leaf.grad

        assert gradient(k1_estimate).abs().max() < 1e-5
        assert gradient(k3_estimate).abs().max() > 1e-2


def exact_kl_of_two_tokens(policy, reference, tokenizer, prompt, temperature: float = 1.0) -> float:
    """KL over all completions of at most two tokens, by enumeration."""
    ids = torch.tensor(encode_prompts(tokenizer, [prompt])[0])
    tokens = torch.arange(policy.config.vocab_size)
    rows = torch.cat([ids.expand(len(tokens), -1), tokens[:, None]], dim=1)
    with torch.no_grad():
        ours, theirs = (model(rows).logits[:, -2:] / temperature for model in (policy, reference))
    first = token_kl(ours[0, 0], theirs[0, 0])
    second = token_kl(ours[:, 1], theirs[:, 1])
    second[tokenizer.eos_token_id] = 0  # the completion has ended
    return (first + (ours[0, 0].softmax(-1) * second).sum()).item()


class TestKLToReference:
    def test_is_unbiased_never_negative_and_steadier_than_k1(self, policy, reference, tokenizer) -> None:
        n, prompt = 400, PROMPTS[0]
        exact = exact_kl_of_two_tokens(policy, reference, tokenizer, prompt)
        backwards = exact_kl_of_two_tokens(reference, policy, tokenizer, prompt)
        values, completions = kl_to_reference(
            policy,
            reference,
            tokenizer,
            [prompt] * n,
            max_new_tokens=2,
            batch_size=100,
            return_generations=True,
        )
        error = values.std() / n**0.5
        assert values.shape == (n,)
        assert values.min() > 0
        assert values.mean() == pytest.approx(exact, abs=4 * error)
        assert abs(backwards - exact) > 8 * error  # the premise: this test can tell the two directions apart

        ids = encode_prompts(tokenizer, [prompt])[0]
        ratios = []
        for completion in completions:
            row = torch.tensor([[*ids, *completion.token_ids]])
            mask = torch.tensor([[0] * len(ids) + [1] * len(completion.token_ids)])
            with torch.no_grad():
                pair = [
                    completion_log_probs(model, row, torch.ones_like(row), mask)
                    for model in (policy, reference)
                ]
            ratios.append(k1_estimate(*pair).item())
        assert np.mean(ratios) == pytest.approx(exact, abs=4 * np.std(ratios) / n**0.5)
        assert np.std(ratios) > 3 * values.std()
        assert min(ratios) < 0

    def test_the_temperature_applies_to_both_models(self, policy, reference, tokenizer) -> None:
        exact = exact_kl_of_two_tokens(policy, reference, tokenizer, PROMPTS[0], temperature=3.0)
        values = kl_to_reference(
            policy, reference, tokenizer, [PROMPTS[0]] * 200, max_new_tokens=2, temperature=3.0
        )
        assert values.mean() == pytest.approx(exact, abs=4 * values.std() / 200**0.5)
        assert exact < 0.5 * exact_kl_of_two_tokens(policy, reference, tokenizer, PROMPTS[0])

    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_sums_over_exactly_the_sampled_tokens(
        self, temperature: float, policy, reference, tokenizer
    ) -> None:
        sampling = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
        values, completions = kl_to_reference(
            policy, reference, tokenizer, PROMPTS, return_generations=True, **sampling
        )
        assert completions == generate(policy, tokenizer, PROMPTS, **sampling)
        expected = []
        for ids, completion in zip(encode_prompts(tokenizer, PROMPTS), completions, strict=True):
            row = torch.tensor([[*ids, *completion.token_ids]])
            with torch.no_grad():
                steps = token_kl(*(model(row).logits[0] / temperature for model in (policy, reference)))
            expected.append(steps[len(ids) - 1 : -1].sum().item())
        assert values.tolist() == pytest.approx(expected, abs=SUM_CLOSE)

    def test_completions_that_are_there_are_not_sampled_again(
        self, policy, reference, tokenizer, monkeypatch
    ) -> None:
        sampled = generate(policy, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=5)
        expected = kl_to_reference(policy, reference, tokenizer, PROMPTS, max_new_tokens=8, seed=5)
        monkeypatch.setattr(divergence, "generate", None)
        values = kl_to_reference(policy, reference, tokenizer, PROMPTS, generations=sampled)
        assert values.tolist() == expected.tolist()
        with pytest.raises(CourseError, match="2 generations"):
            kl_to_reference(policy, reference, tokenizer, PROMPTS, generations=sampled[1:])

    def test_half_precision_is_widened_before_the_temperature(self, policy, reference, tokenizer) -> None:
        """One prompt, so that the rows here and there have one shape and round alike."""
        models = policy.bfloat16(), reference.bfloat16()
        values, completions = kl_to_reference(
            *models, tokenizer, PROMPTS[:1], max_new_tokens=8, temperature=0.7, return_generations=True
        )
        ids = encode_prompts(tokenizer, PROMPTS[:1])[0]
        row = torch.tensor([[*ids, *completions[0].token_ids]])
        with torch.no_grad():
            ours, theirs = (model(row).logits[0, len(ids) - 1 : -1].double() / 0.7 for model in models)
        expected = kl_div(theirs.log_softmax(-1), ours.log_softmax(-1), log_target=True, reduction="sum")
        assert values.tolist() == [pytest.approx(expected.item(), rel=1e-5)]

    def test_batches_change_nothing(self, policy, reference, tokenizer, monkeypatch) -> None:
        values = kl_to_reference(policy, reference, tokenizer, PROMPTS, max_new_tokens=8)
        shapes: list[int] = []
        original = divergence._logits

        def spy(model, rows, pad):
            shapes.append(len(rows))
            return original(model, rows, pad)

        monkeypatch.setattr(divergence, "_logits", spy)
        monkeypatch.setattr(divergence, "MOST_LOGITS", 1)  # room for less than one row
        small = kl_to_reference(policy, reference, tokenizer, PROMPTS, max_new_tokens=8)
        assert shapes == [1] * 6
        assert small.tolist() == pytest.approx(values.tolist(), abs=SUM_CLOSE)

    def test_a_model_is_no_distance_from_itself(self, policy, tokenizer) -> None:
        same = kl_to_reference(policy, policy, tokenizer, PROMPTS, max_new_tokens=8)
        assert same.tolist() == pytest.approx([0.0] * 3, abs=1e-6)

    def test_modes_and_random_state_are_put_back(self, policy, reference, tokenizer) -> None:
        policy.train()
        reference.model.layers[0].train()
        before = [module.training for model in (policy, reference) for module in model.modules()]
        torch.manual_seed(5)
        state = torch.get_rng_state()
        kl_to_reference(policy, reference, tokenizer, PROMPTS, max_new_tokens=4)
        assert [module.training for model in (policy, reference) for module in model.modules()] == before
        assert torch.equal(torch.get_rng_state(), state)

    def test_dropout_is_off(self, policy, reference, tokenizer) -> None:
        expected = kl_to_reference(policy, reference, tokenizer, PROMPTS, max_new_tokens=8)
        for model in (policy, reference):
            for layer in model.model.layers:
                layer.self_attn.attention_dropout = 0.9
            model.train()
        again = kl_to_reference(policy, reference, tokenizer, PROMPTS, max_new_tokens=8)
        assert again.tolist() == pytest.approx(expected.tolist(), abs=SUM_CLOSE)

    @pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
    def test_a_temperature_that_is_none_is_refused(self, policy, reference, tokenizer, temperature) -> None:
        replies = generate(policy, tokenizer, PROMPTS, max_new_tokens=2)
        with pytest.raises(
            CourseError, match=f"a number above 0, but it is {temperature}: greedy completions"
        ):
            kl_to_reference(
                policy, reference, tokenizer, PROMPTS, temperature=temperature, generations=replies
            )

    def test_another_vocabulary_is_refused(self, policy, reference, tokenizer) -> None:
        size = reference.config.vocab_size
        reference.resize_token_embeddings(size + 8)
        with pytest.raises(CourseError, match=f"policy has {size} .* reference {size + 8}"):
            kl_to_reference(policy, reference, tokenizer, PROMPTS)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_mean_log_probs_are_those_of_each_reply_alone(policy, tokenizer, batch_size: int) -> None:
    found = mean_log_probs(policy.train(), tokenizer, PROMPTS, REJECTED, batch_size=batch_size)
    assert policy.training  # as it was
    policy.eval()
    for prompt, reply, value in zip(PROMPTS, REJECTED, found, strict=True):
        row = encode_completions(tokenizer, [prompt], [reply])
        with torch.no_grad():
            total = completion_log_probs(policy, **row).item()
        assert value == pytest.approx(total / row["completion_mask"].sum().item(), abs=1e-4)


def test_importing_the_module_loads_no_torch() -> None:
    import os
    import subprocess
    import sys

    code = "import sys, posttrain_helpers.generation.likelihood; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ.copy()).returncode == 0


def test_a_row_longer_than_the_model_is_refused(policy, tokenizer) -> None:
    limit = policy.config.max_position_embeddings
    with pytest.raises(CourseError, match=rf"Prompt 1 and its completion have \d+ tokens, .* read {limit};"):
        mean_log_probs(policy, tokenizer, PROMPTS[:2], [CHOSEN[0], "moo " * limit])


def test_an_empty_completion_without_an_end_token_is_refused(policy, tokenizer) -> None:
    without_end = copy.deepcopy(tokenizer)
    without_end.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    with pytest.raises(CourseError, match="Completion 1 has no token: it is empty"):
        mean_log_probs(policy, without_end, PROMPTS[:2], [CHOSEN[0], ""])
