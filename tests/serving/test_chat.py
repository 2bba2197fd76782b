"""`chat` in headless Chromium: replies as the course generates them, stop, errors, nothing from outside."""

from __future__ import annotations

import html
import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from served import LORA, MARKUP, save, served

from posttrain_helpers import cli
from posttrain_helpers.generation import generate
from posttrain_helpers.generation.decoding import SHORTEN
from posttrain_helpers.serving import chat, server
from posttrain_helpers.stages.loading import load_model_and_tokenizer

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
QUESTION = "What is the capital of France?"
STAGES = {"whole": {"markup": True}, "adapter": {"lora": LORA}, "endless": {"endless": True}}
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}


@pytest.fixture(scope="module", params=[1, 3], ids=["one", "three"])
def page(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page with stages in a browser; `page.asked` lists what it requested, `page.names` the stages."""
    for package in ("gradio", "playwright"):
        pytest.importorskip(package, reason=f"{package} is not installed: pip install gradio playwright")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("POSTTRAIN_OUTPUT", str(tmp_path_factory.mktemp("chat")))
        names = [*STAGES][-request.param :]
        for name in names:
            save(name, **STAGES[name])
        with served("chat", *names, "--profile", "tiny") as (_, port), sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
            page = browser.new_page(viewport=DESK)
            page.set_default_timeout(60_000)
            page.asked, page.names = [], names
            page.on("request", lambda request: page.asked.append(request.url))
            page.goto(f"http://127.0.0.1:{port}")
            page.get_by_label("Your message").wait_for()
            yield page
            browser.close()


def send(page: Any, text: str) -> None:
    clear(page)
    page.get_by_label("Your message").fill(text)
    page.keyboard.press("Enter")


def clear(page: Any) -> None:
    page.get_by_role("button", name="Clear").click()
    page.wait_for_timeout(500)
    assert page.locator(".message").count() == 0
    assert page.get_by_text("Error").count() == 0


def replies(page: Any) -> list[str]:
    """Return all replies, once none changes any more."""
    page.wait_for_function(f"document.querySelectorAll('.bot.message').length >= {len(page.names)}")
    before, same = "", 0
    while same < 4:  # on a busy machine a model may take seconds for its first tokens
        page.wait_for_timeout(1000)
        now = "".join(page.locator(".bot.message").all_inner_texts())
        before, same = now, same + 1 if now == before else 0
    return [text.strip() for text in page.locator(".bot.message").all_inner_texts()]


def generated(name: str, longest: int = 128) -> str:
    model, tokenizer = load_model_and_tokenizer(name, verbose=False)
    prompt = [{"role": "user", "content": QUESTION}]
    return generate(model, tokenizer, [prompt], max_new_tokens=longest)[0].text.strip()


@pytest.mark.slow
def test_all_models_answer_as_the_course_generates(page: Any) -> None:
    send(page, QUESTION)
    for name, text in zip(page.names, replies(page), strict=True):
        assert text == generated(name)
        assert (MARKUP.strip() in text) == ("markup" in STAGES[name])
        assert page.get_by_text(name, exact=True).is_visible()
    assert page.get_by_label("Your message").input_value() == ""
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"  # the next can be typed at once


@pytest.mark.slow
def test_stop_ends_the_replies(page: Any) -> None:
    page.get_by_text("Settings").click()
    longest = page.get_by_label("number input for Longest reply")
    longest.fill("450")
    send(page, QUESTION)
    page.wait_for_function(
        "[...document.querySelectorAll('.bot.message')].some(e => e.innerText.length > 60)"
    )
    page.get_by_role("button", name="Stop").click()
    stopped = replies(page)[-1]
    send(page, QUESTION)
    last = len(page.names) - 1
    page.wait_for_function(f"document.querySelectorAll('.bot.message')[{last}]?.innerText.length > 60")
    clear(page)
    page.wait_for_timeout(1500)
    assert page.locator(".bot.message").count() == 0, "a reply that was begun came back"
    longest.fill("128")
    page.get_by_text("Settings").click()
    whole = generated("endless", 450)
    assert whole.startswith(stopped[:60])
    assert len(stopped) < len(whole)


@pytest.mark.slow
def test_what_a_model_cannot_answer_is_a_sentence_and_is_not_shown_to_it(page: Any) -> None:
    send(page, "a cow says " * 300)
    for text in replies(page):
        assert "No reply" in text
        assert (
            "tokens and 128 new ones are asked for, but the model has 512 positions in all; begin anew with"
            in text
        )
    page.get_by_label("Your message").fill(QUESTION)
    page.keyboard.press("Enter")
    page.wait_for_function(f"document.querySelectorAll('.bot.message').length >= {2 * len(page.names)}")
    assert not any("No reply" in text for text in replies(page)[1::2])


@pytest.mark.slow
def test_markup_is_shown_as_it_was_written(page: Any) -> None:
    text = (
        f"{MARKUP}<script>alert(1)</script> **bold** [link](http://tracker.example) 🐄 &amp; <think>x</think>"
    )
    send(page, text)
    replies(page)
    assert page.locator(".user.message").all_inner_texts() == [text] * len(page.names)
    assert page.locator(".pane .message").locator("img, script, b, strong, a").count() == 0
    assert not [url for url in page.asked if "tracker.example" in url]
    # Were it read as HTML nevertheless, the browser would not ask either.
    violated = page.evaluate(
        """new Promise(done => {
            document.addEventListener("securitypolicyviolation", event => done(event.violatedDirective));
            new Image().src = "http://127.0.0.1:9/x.png";
            setTimeout(() => done("none"), 5000);
        })"""
    )
    assert violated == "img-src"


@pytest.mark.slow
def test_nothing_is_uploaded_and_no_foreign_name_is_answered(page: Any) -> None:
    import httpx

    here = page.url.rstrip("/")
    sent = httpx.post(f"{here}/gradio_api/upload", files={"files": ("x.txt", b"more than a byte")})
    assert sent.status_code == 413
    assert httpx.get(here, headers={"Host": "evil.example"}).status_code == 400


@pytest.mark.slow
def test_what_is_typed_while_models_write_stays(page: Any) -> None:
    page.get_by_text("Settings").click()
    page.get_by_label("number input for Longest reply").fill("400")
    box, button = page.get_by_label("Your message"), page.get_by_role("button", name="Send")
    send(page, QUESTION)
    page.wait_for_function(
        "[...document.querySelectorAll('button')].some(e => e.disabled && e.innerText == 'Send')"
    )
    box.fill("and this?")
    replies(page)
    assert box.input_value() == "and this?"
    assert button.is_enabled()
    assert page.get_by_role("button", name="Stop").is_disabled()
    page.get_by_label("number input for Longest reply").fill("128")
    page.get_by_text("Settings").click()


@pytest.mark.slow
@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_the_page_fits_and_comes_from_this_machine(page: Any, size: dict[str, int]) -> None:
    page.set_viewport_size(size)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    places = [pane.bounding_box() for pane in page.locator(".pane").all()]
    assert len(places) == len(page.names)
    assert (places[0]["y"] == places[-1]["y"]) == (size is DESK or len(places) == 1)
    assert page.get_by_role("button", name="Send").is_visible()
    assert {url.split("/")[2].partition(":")[0] for url in page.asked if "://" in url} == {"127.0.0.1"}


class Scripted:
    """A reply that takes `n` looks until it is written, in place of a model's."""

    def __init__(self, text: str, n: int) -> None:
        self.written, self.left, self.error, self.stopped = text, n, None, False

    @property
    def running(self) -> bool:
        self.left -= 1
        return self.left > 0 and not self.stopped

    @property
    def text(self) -> str:
        return self.written[: -self.left] if self.left > 0 else self.written

    def stop(self) -> None:
        self.stopped = True


def test_conversations_keep_what_was_written_and_go_on_together(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[list[dict[str, str]]] = []

    def begun(loaded: str, messages: list, longest: int, temperature: float) -> Scripted | Exception:
        heard.append(messages)
        return ValueError(f"{SHORTEN}.") if len(messages[-1]["content"]) > 100 else Scripted(loaded, 4)

    monkeypatch.setattr(chat, "_begun", begun)
    monkeypatch.setattr(chat.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(chat, "StreamedReply", Scripted)
    talk = chat.Conversations(["<b>", " two\n"])
    user, first = {"role": "user", "content": MARKUP}, {"role": "assistant", "content": "<b>"}
    (*_, last) = talk.answers(MARKUP * 2, "", 0, 16)
    assert 'begin anew with "Clear", or lower "Longest reply"' in last[0][-1]["content"]
    (*_, last) = talk.answers(MARKUP, "sys", 0, 16)
    assert last == talk.said
    assert last[0][2:] == [user, first]
    assert heard[-2] == [{"role": "system", "content": "sys"}, user]  # not what it did not answer
    shown = chat._shown(last[0])
    assert "<" not in shown[2]["content"]
    assert html.unescape(shown[2]["content"]) == MARKUP
    assert [message["metadata"] for message in shown] == [{}, {"title": "No reply"}, {}, {}]

    going = talk.answers("more", "", 0, 16)
    next(going)
    talk.clear()
    assert list(going)[-1] == talk.said == [[], []]
    (*_, last) = talk.answers("new", "", 0, 16)
    assert [len(said) for said in last] == [2, 2]


def test_what_cannot_be_shown_is_one_sentence(
    output_root: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(server, "is_installed", lambda package: False)
    for line, sentence in {
        "chat base": "chat needs gradio, which is not part of the plain installation",
        "chat base sft dpo ppo": "the page has room for 3 models, but 4 are named",
    }.items():
        assert cli.main([*line.split(), "--profile", "tiny"]) == cli.EXIT_MISTAKE
        assert sentence in capsys.readouterr().err
    assert "GRADIO_ANALYTICS_ENABLED" not in os.environ
