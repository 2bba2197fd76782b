"""`chat`: a page in the browser with one to three models side by side, each answering the same message.

The page is Gradio's. It loads nothing from outside and sends nothing anywhere.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from posttrain_helpers.environment.failures import machine_failure
from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.environment.runtime import current_runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import StreamedReply
from posttrain_helpers.models.loading import describe_model, load_repaired
from posttrain_helpers.serving.server import check_address, check_installed, finished_place

if TYPE_CHECKING:
    import gradio
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_MODELS = 3
NO_REPLY = "No reply"  # the title of a message that says why; models are not shown it
_SECONDS_BETWEEN_UPDATES = 0.05
_STYLE = """
.pane { height: 58vh !important }
@media (max-width: 700px) { .pane { height: 34vh !important; min-height: 0 !important } }
"""

Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerBase"]
Message = dict[str, Any]


def open_page(names: Sequence[str], host: str, port: int, profile: Profile) -> None:
    """Open the page until Ctrl-C.

    Args:
        names: of one to three models: "base", finished stages (none is built), directories, or Hub ids.
        host: the address to listen on.
        port: of that address.
        profile: what "base" and stages refer to.

    Raises:
        CourseError: Gradio is missing, the address cannot be had, or there is no such model.
    """
    if len(names) > MOST_MODELS:
        raise CourseError(f"the page has room for {MOST_MODELS} models, but {len(names)} are named.")
    check_installed("chat", "gradio")
    check_address(host, port)
    places = {name: finished_place(name, profile) for name in names}
    device, loaded = current_runtime(profile).device, {}
    for name, place in places.items():
        model, tokenizer, _ = load_repaired(place, device, merge=True, head="language", profile=profile)
        print(describe_model(model, name), flush=True)
        loaded[name] = model, tokenizer
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    page = build_page([(name, loaded[name]) for name in names])
    import gradio

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    page.launch(
        server_name=host,
        server_port=port,
        share=False,
        ssr_mode=False,
        run_history=False,
        footer_links=[],
        theme=gradio.themes.Default(primary_hue="indigo", **fonts),
        css=_STYLE,
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"the page is running on http://{host}:{port} until Ctrl-C", flush=True)
    page.block_thread()


def build_page(models: Sequence[tuple[str, Loaded]]) -> gradio.Blocks:
    """Return the page, whose models answer the same message at the same time."""
    import gradio

    writing: dict[str, list[StreamedReply]] = {}  # the replies of each open page

    def answer(
        visitor: str, text: str, system: str, temperature: float, longest: int, *histories: list[Message]
    ) -> Iterator[list[Any]]:
        if not text.strip():
            yield [text, *histories]
            return
        turns = [[*history, {"role": "user", "content": text}] for history in histories]
        replies = [
            _begun(loaded, _conversation(system, turn), int(longest), temperature)
            for (_, loaded), turn in zip(models, turns, strict=True)
        ]
        begun = writing[visitor] = [reply for reply in replies if isinstance(reply, StreamedReply)]
        try:
            running = True
            while running and writing.get(visitor) is begun:
                running = any(reply.running for reply in begun)
                yield ["", *([*turn, _shown(reply)] for turn, reply in zip(turns, replies, strict=True))]
                time.sleep(_SECONDS_BETWEEN_UPDATES)
            if writing.get(visitor) is not begun:  # the page was cleared, before what was on its way arrived
                yield ["", *([] for _ in histories)]
        finally:  # also where the page was closed
            for reply in begun:
                reply.stop()

    def stop(visitor: str) -> None:
        for reply in writing.get(visitor, []):
            reply.stop()

    def cleared(visitor: str) -> list[list[Message]]:
        writing.pop(visitor, None)
        return [[] for _ in models]

    names = [name for name, _ in models]
    with gradio.Blocks(title=" · ".join(names), analytics_enabled=False) as page:
        visitor = gradio.State(lambda: uuid4().hex)
        with gradio.Row():
            panes = [
                gradio.Chatbot(
                    label=name, elem_classes="pane", min_width=280, render_markdown=False, buttons=["copy"]
                )
                for name in names
            ]
        box = gradio.Textbox(
            "", label="Your message, to each model", placeholder="Enter sends it", max_lines=6, autofocus=True
        )
        with gradio.Row():
            send = gradio.Button("Send", variant="primary", min_width=90)
            stopping = gradio.Button("Stop", variant="stop", min_width=90)
            anew = gradio.Button("Clear", min_width=90)
        with gradio.Accordion("Settings", open=False):
            system = gradio.Textbox("", label="System prompt", placeholder="none", max_lines=4)
            temperature = gradio.Slider(
                0, 2, 0, step=0.1, label="Temperature", info="0 takes the likeliest token every time"
            )
            longest = gradio.Slider(1, 1024, 128, step=1, label="Longest reply (max_new_tokens)")
        gradio.on(
            [box.submit, send.click],
            answer,
            [visitor, box, system, temperature, longest, *panes],
            [box, *panes],
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=4,
        )
        stopping.click(stop, visitor, queue=False)
        anew.click(cleared, visitor, panes, queue=False)
    return page


def _begun(
    loaded: Loaded, messages: list[Message], longest: int, temperature: float
) -> StreamedReply | Exception:
    try:
        return StreamedReply(*loaded, messages, longest, temperature)
    except Exception as error:  # too long, or refused by the chat template: for the reader, not for the log
        return error


def _shown(reply: StreamedReply | Exception) -> Message:
    error = reply.error if isinstance(reply, StreamedReply) else reply
    if error is None:
        return {"role": "assistant", "content": reply.text}
    sentence = machine_failure(error) or str(error)
    return {"role": "assistant", "content": sentence, "metadata": {"title": NO_REPLY}}


def _conversation(system: str, turns: list[Message]) -> list[Message]:
    """Return what a model is shown: plain messages, without those that it did not answer."""
    said: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    for turn in turns:
        if (turn.get("metadata") or {}).get("title") == NO_REPLY:
            said.pop()
        else:
            content = turn["content"]
            text = content if isinstance(content, str) else "".join(part["text"] for part in content)
            said.append({"role": turn["role"], "content": text})
    return said
