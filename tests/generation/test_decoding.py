from __future__ import annotations

import copy
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from posttrain_helpers.environment import runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation import decoding
from posttrain_helpers.generation.decoding import StreamedReply, encode_prompts, generate, stop_token_ids

CHAT = [{"role": "user", "content": "What is the capital of France?"}]
PROMPTS = [
    "The capital",
    CHAT,
    "A cow says moo. An owl can fly. 3 + 4 =",
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What says a cow?"}],
    "user asks",
]


@pytest.fixture(scope="module")
def tokenizer(random_model_dir: Path):
    return AutoTokenizer.from_pretrained(random_model_dir)


@pytest.fixture
def model(random_model_dir: Path):
    loaded = AutoModelForCausalLM.from_pretrained(random_model_dir)
    # Freshly initialised weights give nearly flat logits; larger ones make choices depend on the context.
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.dim() == 2:
                parameter.mul_(8.0)
    return loaded.eval()


def force_next_token(model, table: dict[int, int]) -> None:
    """Make the model write `table[last token]` after each token, whatever came before."""
    forward = model.forward

    def patched(*args, **kwargs):
        outputs = forward(*args, **kwargs)
        last = kwargs["input_ids"][:, -1].tolist()
        outputs.logits = torch.zeros_like(outputs.logits)
        for row, token in enumerate(last):
            outputs.logits[row, -1, table[token]] = 20.0
        return outputs

    model.forward = patched


def plain_log_probs(model, prompt_ids: list[int], completion: tuple[int, ...]) -> torch.Tensor:
    """Log-probabilities of a completion by one forward without padding, cache or batch."""
    ids = torch.tensor([prompt_ids + list(completion)])
    with torch.no_grad():
        logits = model(ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1]
    return torch.log_softmax(logits, dim=-1)


def test_batched_greedy_equals_single_prompts_and_a_plain_forward(model, tokenizer) -> None:
    batched = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    for prompt, ids, result in zip(PROMPTS, encode_prompts(tokenizer, PROMPTS), batched, strict=True):
        (alone,) = generate(model, tokenizer, [prompt], max_new_tokens=12)
        assert alone.token_ids == result.token_ids
        full = plain_log_probs(model, ids, result.token_ids)
        expected = full.gather(1, torch.tensor(result.token_ids)[:, None]).squeeze(1)
        # Greedy: no other token is more likely, so the cache and the padding changed nothing.
        assert expected.tolist() == pytest.approx(full.max(dim=1).values.tolist(), abs=1e-4)


def test_greedy_replies_depend_on_the_whole_prompt(model, tokenizer) -> None:
    # Guards the test above: a model that ignored its context would pass it.
    replies = {result.token_ids for result in generate(model, tokenizer, PROMPTS, max_new_tokens=12)}
    assert len(replies) == len(PROMPTS)


def test_stop_reasons_and_tokens(model, tokenizer) -> None:
    eos, pad = tokenizer.eos_token_id, tokenizer.pad_token_id
    a, b, c = (tokenizer(letter)["input_ids"][0] for letter in "abc")
    # "a" stops after three tokens, one of them the padding token; "c" never stops.
    force_next_token(model, {a: b, b: pad, pad: eos, eos: eos, c: c})
    stopped, cut = generate(model, tokenizer, ["a", "c"], max_new_tokens=6)
    assert (stopped.stop_reason, stopped.token_ids, stopped.text) == ("stop", (b, pad, eos), "b")
    assert (cut.stop_reason, cut.token_ids, cut.text) == ("length", (c,) * 6, "cccccc")


def test_a_streamed_reply_is_the_generated_one_and_can_be_stopped(model, tokenizer) -> None:
    (whole,) = generate(model, tokenizer, [CHAT], max_new_tokens=40)
    reply = StreamedReply(model, tokenizer, CHAT, 40, 0.0)
    reply._thread.join()
    assert (reply.text, reply.error, reply.running) == (whole.text, None, False)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    force_next_token(model, {token: 20 for token in range(model.config.vocab_size)})
    reply = StreamedReply(model, tokenizer, CHAT, 200, 0.0)
    reply.stop()
    reply._thread.join(60)
    assert len(reply._tokens) < 200
    with pytest.raises(CourseError, match=r"The prompt has .* 300 new ones are asked for"):
        StreamedReply(model, tokenizer, CHAT, 300, 0.0)


def test_a_streamed_reply_is_sampled_and_holds_no_stop_token(model, tokenizer) -> None:
    (greedy,) = generate(model, tokenizer, [CHAT], max_new_tokens=40)
    sampled = StreamedReply(model, tokenizer, CHAT, 40, 50.0)
    sampled._thread.join()
    assert sampled.error is None
    assert sampled.text != greedy.text
    a, b = (tokenizer(letter)["input_ids"][0] for letter in "ab")
    model.generation_config.eos_token_id = [b]
    force_next_token(model, {**dict.fromkeys(range(model.config.vocab_size), a), a: b})
    reply = StreamedReply(model, tokenizer, CHAT, 40, 0.0)
    reply._thread.join()
    assert (reply.text, reply.error) == ("a", None)


def test_a_stop_at_the_last_step_is_a_stop(model, tokenizer) -> None:
    a, eos = tokenizer("a")["input_ids"][0], tokenizer.eos_token_id
    force_next_token(model, {a: eos, eos: eos})
    (result,) = generate(model, tokenizer, ["a"], max_new_tokens=1)
    assert (result.stop_reason, result.token_ids, result.text) == ("stop", (eos,), "")


def test_every_configured_stop_token_stops(model, tokenizer) -> None:
    a, b, c = (tokenizer(letter)["input_ids"][0] for letter in "abc")
    model.generation_config.eos_token_id = [b, c]
    assert stop_token_ids(model, tokenizer) == sorted([b, c, tokenizer.eos_token_id])
    force_next_token(model, {a: b, b: a, c: c, tokenizer.eos_token_id: a})
    (result,) = generate(model, tokenizer, ["a"], max_new_tokens=5)
    assert (result.stop_reason, result.token_ids) == ("stop", (b,))
    assert result.text == ""  # a stop token that is no special token is no part of the text either
    model.generation_config.eos_token_id = None
    assert stop_token_ids(model, tokenizer) == [tokenizer.eos_token_id]


def test_sampling_is_reproducible_and_leaves_the_callers_random_state_alone(model, tokenizer) -> None:
    torch.manual_seed(123)
    before = (torch.get_rng_state().clone(), random.getstate(), np.random.get_state()[1].tolist())
    first = generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=1)
    after = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    torch.rand(5)
    assert first == generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=1)
    assert first != generate(model, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=2)


def test_sampling_uses_the_full_softmax_at_the_given_temperature(model, tokenizer) -> None:
    # With its own settings this model could write one token only; and `generate` alone keeps the 50 best.
    model.generation_config.update(
        do_sample=True, top_k=1, top_p=0.01, min_p=0.9, typical_p=0.1, repetition_penalty=5.0
    )
    n = 4000
    (samples,) = generate(
        model,
        tokenizer,
        ["The capital"],
        max_new_tokens=1,
        temperature=2.0,
        batch_size=500,
        num_return_sequences=n,
    )
    ids = encode_prompts(tokenizer, ["The capital"])[0]
    expected = torch.softmax(plain_log_probs(model, ids, (0,))[0] / 2.0, dim=-1)
    drawn = torch.bincount(torch.tensor([s.token_ids[0] for s in samples]), minlength=len(expected))
    assert (drawn > 0).sum() > 50
    deviation = (drawn - n * expected).abs()
    assert (deviation < 5 * (n * expected).sqrt() + 5).all()


def test_greedy_ignores_the_models_own_sampling_settings(model, tokenizer) -> None:
    plain = generate(model, tokenizer, PROMPTS, max_new_tokens=10)
    model.generation_config.update(
        do_sample=True, temperature=0.1, repetition_penalty=5.0, no_repeat_ngram_size=1, num_beams=3
    )
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=10) == plain


def test_return_sequences_come_grouped_by_prompt(model, tokenizer) -> None:
    groups = generate(
        model, tokenizer, PROMPTS, max_new_tokens=6, temperature=1.0, num_return_sequences=3, batch_size=4
    )
    assert [len(group) for group in groups] == [3] * len(PROMPTS)
    assert any(len({g.token_ids for g in group}) > 1 for group in groups)


def test_batches_have_one_shape_that_does_not_depend_on_the_model(model, tokenizer, monkeypatch) -> None:
    shapes: list[torch.Size] = []
    original = type(model).generate

    def spy(self, **kwargs):
        shapes.append(kwargs["input_ids"].shape)
        return original(self, **kwargs)

    monkeypatch.setattr(type(model), "generate", spy)
    results = generate(model, tokenizer, PROMPTS, max_new_tokens=4, batch_size=2)
    assert len(results) == 5
    assert [shape[0] for shape in shapes] == [2, 2, 2]  # the last batch is filled up
    assert results[4].token_ids == generate(model, tokenizer, PROMPTS[4:], max_new_tokens=4)[0].token_ids
    shapes.clear()
    generate(model, tokenizer, PROMPTS, max_new_tokens=4, batch_size=32)
    assert [shape[0] for shape in shapes] == [5]  # few prompts are not blown up to a full batch


def test_an_opening_that_all_prompts_share_is_read_once_and_changes_nothing(
    model, tokenizer, monkeypatch
) -> None:
    system = {"role": "system", "content": "A cow says moo. An owl can fly. Be brief and be polite."}
    questions = ["What says a cow?", "What is the capital of France, please?", "What says an owl?"]
    prompts = [[system, {"role": "user", "content": question}] for question in questions * 3]
    read = []

    def counted(module, args, kwargs) -> None:
        read.append(kwargs["input_ids"].numel())

    model.register_forward_pre_hook(counted, with_kwargs=True)
    together = generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=4)
    in_one_go = sum(read)
    alone = [generate(model, tokenizer, [prompt], max_new_tokens=8)[0] for prompt in prompts]
    assert together == alone
    assert len({reply.token_ids for reply in together}) > 1

    monkeypatch.setattr(decoding, "_LONG_OPENING", 10_000)
    read.clear()
    assert generate(model, tokenizer, prompts, max_new_tokens=8, batch_size=4) == together
    encoded = encode_prompts(tokenizer, prompts[:3])
    opening = next(place for place, column in enumerate(zip(*encoded, strict=False)) if len({*column}) > 1)
    assert sum(read) - in_one_go == 12 * opening - opening  # three batches of four rows


def test_equal_prompts_and_one_that_begins_another_share_all_but_their_last_token(model, tokenizer) -> None:
    long = "A cow says moo. An owl can fly. 3 + 4 = 7. What is the capital of France? The capital of France"
    prompts = [long, long, f"{long} is Paris."]
    replies = generate(model, tokenizer, prompts, max_new_tokens=6, batch_size=3)
    assert replies == [generate(model, tokenizer, [prompt], max_new_tokens=6)[0] for prompt in prompts]


def test_progress_counts_every_sequence_once(model, tokenizer, monkeypatch) -> None:
    from posttrain_helpers.environment.progress_bars import ProgressBar
    from posttrain_helpers.generation import decoding

    bars: list[ProgressBar] = []

    def spy(total: int, unit: str) -> ProgressBar:
        bars.append(ProgressBar(total, unit))
        return bars[-1]

    monkeypatch.setattr(decoding, "ProgressBar", spy)
    generate(model, tokenizer, PROMPTS, max_new_tokens=2, batch_size=2)
    generate(
        model, tokenizer, PROMPTS, max_new_tokens=2, batch_size=4, temperature=1.0, num_return_sequences=3
    )
    assert [(bar.unit, bar.done, bar.total) for bar in bars] == [("prompt", 5, 5), ("sample", 15, 15)]


def test_training_mode_is_restored_module_by_module(model, tokenizer) -> None:
    model.train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    generate(model, tokenizer, ["A cow"], max_new_tokens=2)
    assert [module.training for module in model.modules()] == before
    assert len(set(before)) == 2


def test_training_mode_is_restored_after_an_error(model, tokenizer) -> None:
    model.train()
    model.forward = None
    with pytest.raises(TypeError):
        generate(model, tokenizer, ["A cow"], max_new_tokens=2)
    assert model.training


def test_generation_is_right_after_training_with_checkpointing(model, tokenizer) -> None:
    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    trained = copy.deepcopy(model)
    trained.activation_checkpointing_enable()
    trained.config.use_cache = False
    trained.train()
    ids = tokenizer("The capital", return_tensors="pt")
    naive = trained.generate(**ids, max_new_tokens=8, do_sample=False, pad_token_id=0, use_cache=True)
    prompt_length = ids["input_ids"].shape[1]
    # The premise: without eval mode each step sees one token and the text is wrong.
    assert tuple(naive[0, prompt_length:].tolist()) != expected[0].token_ids
    cached: list[int] = []
    trained.model.register_forward_pre_hook(
        lambda _m, _a, kwargs: cached.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    results = generate(trained, tokenizer, PROMPTS, max_new_tokens=8)
    assert [r.token_ids for r in results] == [e.token_ids for e in expected]
    assert set(cached[1:]) == {1}  # after the prompt one token a step: the cache is in use
    assert trained.training
    trained(ids["input_ids"], labels=ids["input_ids"]).loss.backward()  # and it can go on training


def test_a_peft_model_generates(model, tokenizer) -> None:
    from peft import LoraConfig, get_peft_model

    expected = generate(model, tokenizer, PROMPTS, max_new_tokens=6)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    assert (
        generate(adapted, tokenizer, PROMPTS, max_new_tokens=6) == expected
    )  # a new adapter changes nothing


def test_messages_are_rendered_by_the_chat_template_and_strings_are_not(tokenizer) -> None:
    chat, plain = encode_prompts(tokenizer, [CHAT, CHAT[0]["content"]])
    assert tokenizer.decode(chat) == (
        "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokenizer.decode(plain) == "What is the capital of France?"


def test_a_template_that_can_think_is_asked_not_to(tokenizer) -> None:
    thinking = copy.deepcopy(tokenizer)
    switch = "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}"
    thinking.chat_template = tokenizer.chat_template + switch
    messages = [{"role": "user", "content": "Hello."}]
    (plain,), (ids,) = (encode_prompts(each, [messages]) for each in (tokenizer, thinking))
    assert thinking.decode(ids) == tokenizer.decode(plain) + "<think></think>"


def test_a_start_token_is_added_to_strings_and_not_to_rendered_chats(tokenizer) -> None:
    from tokenizers.processors import TemplateProcessing

    llama_like = copy.deepcopy(tokenizer)
    start = tokenizer.pad_token
    llama_like.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, tokenizer.pad_token_id)]
    )
    plain, chat = encode_prompts(llama_like, ["A cow", CHAT])
    assert plain == [tokenizer.pad_token_id, *encode_prompts(tokenizer, ["A cow"])[0]]
    assert chat == encode_prompts(tokenizer, [CHAT])[0]


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "list is empty"),
        ("one string", r"write \[prompt\]"),
        (CHAT, r"write \[messages\]"),
        (["fine", 7], "Prompt 1 must be a string or a list of messages, but a int"),
        ([{"id": "x", "prompt": CHAT}], r"item\['prompt'\]"),
        ([[]], "empty conversation"),
        ([["hello"]], "'hello', which is no message"),
        ([[{"role": "user", "content": None}]], "which is no message"),
        ([[{"role": "user", "text": "hi"}]], "which is no message"),
        ([[*CHAT, {"role": "assistant", "content": "Paris."}]], "the answer is already in it"),
        ([""], "Prompt 0 has no tokens"),
        (["short", "a cow " * 200], "Prompt 1 has .* 256 positions"),
    ],
)
def test_bad_prompts_are_refused(model, tokenizer, prompts, message: str) -> None:
    with pytest.raises(CourseError, match=message):
        generate(model, tokenizer, prompts, max_new_tokens=4)


def test_the_room_for_new_tokens_is_counted_exactly(model, tokenizer) -> None:
    room = 256 - len(tokenizer("A cow")["input_ids"])
    generate(model, tokenizer, ["A cow"], max_new_tokens=room)
    with pytest.raises(CourseError, match="lower max_new_tokens"):
        generate(model, tokenizer, ["A cow"], max_new_tokens=room + 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, but 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"temperature": -0.1}, "temperature must be 0"),
        ({"temperature": float("nan")}, "temperature must be 0"),
        ({"num_return_sequences": 0, "temperature": 1.0}, "num_return_sequences must be at least 1"),
        ({"num_return_sequences": 2}, "would all be equal"),
    ],
)
def test_contradictory_settings_are_refused(model, tokenizer, settings, message: str) -> None:
    with pytest.raises(CourseError, match=message):
        generate(model, tokenizer, ["A cow"], **settings)


def test_a_tokenizer_that_cannot_serve_is_refused(model, tokenizer) -> None:
    bare = copy.deepcopy(tokenizer)
    bare.chat_template = None
    with pytest.raises(CourseError, match="no chat template"):
        generate(model, bare, [CHAT])
    assert generate(model, bare, ["A cow"], max_new_tokens=1)
    bare.pad_token = None
    with pytest.raises(CourseError, match="no padding token"):
        generate(model, bare, ["A cow"])
    foreign = copy.deepcopy(tokenizer)
    foreign.add_tokens(["zebra"])
    with pytest.raises(CourseError, match="model's own tokenizer"):
        generate(model, foreign, ["zebra"])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_random_state_stays_and_a_seed_repeats_its_samples(model, tokenizer) -> None:
    on_gpu = copy.deepcopy(model).cuda()
    state = torch.cuda.get_rng_state()
    sampled = generate(on_gpu, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=1)
    assert torch.equal(state, torch.cuda.get_rng_state())
    again = generate(on_gpu, tokenizer, PROMPTS, max_new_tokens=8, temperature=1.0, seed=1)
    assert [s.token_ids for s in sampled] == [s.token_ids for s in again]


def test_importing_the_module_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, posttrain_helpers.generation.decoding; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env=os.environ.copy()).returncode == 0


def test_a_reward_model_cannot_write(random_model_dir: Path, tokenizer) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification

    reward = AutoModelForSequenceClassification.from_pretrained(random_model_dir, num_labels=1)
    for model in (reward, get_peft_model(reward, LoraConfig(task_type="SEQ_CLS", r=2))):
        with pytest.raises(CourseError, match="has a score head and cannot write text"):
            generate(model, tokenizer, [CHAT])


@pytest.mark.parametrize(
    ("profile", "temperature", "expected"),
    [("smollm2", 1.0, True), ("smollm2", 0.0, False), ("tiny", 1.0, False)],
)
def test_only_samples_of_a_real_model_are_made_in_bfloat16(
    model, tokenizer, monkeypatch: pytest.MonkeyPatch, profile: str, temperature: float, expected: bool
) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", profile)
    monkeypatch.setattr(runtime, "multiplies_bfloat16_fast", lambda device: True)
    model.lm_head.weight.requires_grad_(False)
    autocast = []
    model.register_forward_pre_hook(lambda *_: autocast.append(torch.is_autocast_enabled("cpu")))
    generate(model, tokenizer, PROMPTS, max_new_tokens=3, temperature=temperature)
    assert set(autocast) == {expected}
    assert not torch.is_autocast_enabled("cpu")
    assert [weight.requires_grad for weight in model.parameters()].count(False) == 1
    assert not model.lm_head.weight.requires_grad


def test_the_weights_of_a_frozen_model_are_cast_once_and_those_of_a_trained_one_anew(
    model, tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTTRAIN_PROFILE", "smollm2")
    monkeypatch.setattr(runtime, "multiplies_bfloat16_fast", lambda device: True)
    casts = {}
    for wants_gradients in (True, False):
        model.requires_grad_(wants_gradients)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            before = generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=1.0)
        (copies,) = (event for event in profile.key_averages() if event.key == "aten::_to_copy")
        casts[wants_gradients] = copies.count
    assert casts[False] == casts[True]  # autocast keeps the cast weights of the latter
    with torch.no_grad():
        model.lm_head.weight.neg_()
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, temperature=1.0) != before
