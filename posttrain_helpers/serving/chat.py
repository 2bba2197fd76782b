"""`chat`: a page in the browser with one to three models side by side, each answering the same message.

The page is Gradio's. It loads nothing from outside and sends nothing anywhere.
"""

from __future__ import annotations

import html
import os
import re
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from posttrain_helpers.environment.failures import machine_failure
from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.environment.runtime import current_runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.generation.decoding import SHORTEN, StreamedReply
from posttrain_helpers.models.loading import describe_model, load_repaired
from posttrain_helpers.serving.server import check_address, check_installed, ended_by_signals, finished_place

if TYPE_CHECKING:
    import gradio
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MOST_MODELS = 3
_SECONDS_BETWEEN_UPDATES = 0.05
_LONGEST = "Longest reply"
_SPACES = re.compile(r"^\s+|(?<=\n)[ \t]+|\t|\s+$")  # what Gradio would cut or change
_STYLE = """
.pane { height: 58vh !important }
.pane .md.chatbot { white-space: pre-wrap }
.pane button[aria-label="Clear"] { display: none }  /* one model would go on without what the others heard */
@media (max-width: 700px) { .pane { height: 34vh !important; min-height: 0 !important } }
"""

Loaded = tuple["PreTrainedModel", "PreTrainedTokenizerBase"]
Message = dict[str, Any]
# Were a text ever read as HTML, it still could not call anybody.
_POLICY = "img-src 'self' data: blob:; media-src 'self'; connect-src 'self'; form-action 'none'"
_HEAD = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'


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
    hosts = check_address(host, port)
    places = {name: finished_place(name, profile) for name in names}
    device, loaded = current_runtime(profile).device, {}
    for name, place in places.items():
        model, tokenizer, _ = load_repaired(place, device, merge=True, head="language", profile=profile)
        print(describe_model(model, name), flush=True)
        loaded[name] = model, tokenizer
    with ended_by_signals(), TemporaryDirectory() as temporary:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": temporary}
        import gradio
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        page = build_page([(name, loaded[name]) for name in names])
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
            head=_HEAD,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, allowed_hosts=hosts)]},
            max_file_size=1,  # nothing is uploaded
            quiet=True,
            prevent_thread_lock=True,
        )
        print(f"the page is running on http://{host}:{port} until Ctrl-C", flush=True)
        page.block_thread()


class Conversations:
    """What one visitor says to each model, and what they answer.

    Args:
        models: that answer the same messages at the same time.

    Attributes:
        said: the messages of each conversation, as models and people wrote them. One with `failed` says why
            there is no reply, and the model is shown neither it nor what it is about.
    """

    def __init__(self, models: Sequence[Loaded]) -> None:
        self._models = models
        self._writing: list[StreamedReply] = []
        self.said: list[list[Message]] = [[] for _ in models]

    def answers(
        self, text: str, system: str, temperature: float, longest: int
    ) -> Iterator[list[list[Message]]]:
        """Say something to all models, and yield the conversations again and again while they write."""
        asked = self.said = [[*said, {"role": "user", "content": text}] for said in self.said]
        replies = [
            _begun(loaded, _shown_to_model(system, said), longest, temperature)
            for loaded, said in zip(self._models, asked, strict=True)
        ]
        begun = self._writing = [reply for reply in replies if isinstance(reply, StreamedReply)]
        try:
            running = True
            while running and self.said is asked:  # until it is cleared
                running = any(reply.running for reply in begun)
                now = [[*said, _message(reply)] for said, reply in zip(asked, replies, strict=True)]
                yield now
                time.sleep(_SECONDS_BETWEEN_UPDATES)
            if self.said is asked:
                self.said = now
            yield self.said
        finally:  # also where the page was closed
            for reply in begun:
                reply.stop()

    def stop(self) -> None:
        """Let no model write on."""
        for reply in self._writing:
            reply.stop()

    def clear(self) -> None:
        """Begin anew."""
        self.stop()
        self.said = [[] for _ in self._models]


def build_page(models: Sequence[tuple[str, Loaded]]) -> gradio.Blocks:
    """Return the page, whose models answer the same message at the same time."""
    import gradio

    visits = defaultdict(lambda: Conversations([loaded for _, loaded in models]))

    def answer(visitor: str, text: str, *settings: Any) -> Iterator[list[Any]]:
        nothing = [gradio.skip()] * len(panes)
        if not text.strip():
            yield [gradio.skip()] * 3 + nothing
            return
        yield ["", gradio.Button(interactive=False), gradio.Button(interactive=True), *nothing]
        for now in visits[visitor].answers(text, *settings):  # what is typed meanwhile stays in the box
            yield [gradio.skip()] * 3 + [_shown(said) for said in now]
        yield [gradio.skip(), gradio.Button(interactive=True), gradio.Button(interactive=False), *nothing]

    def cleared(visitor: str) -> dict[Any, list[Message]]:
        visits[visitor].clear()
        return {pane: [] for pane in panes}

    names = [name for name, _ in models]
    with gradio.Blocks(title=" · ".join(names), analytics_enabled=False) as page:
        visitor = gradio.State(lambda: uuid4().hex, delete_callback=lambda gone: visits.pop(gone, None))
        with gradio.Row():
            panes = [
                gradio.Chatbot(
                    label=name, elem_classes="pane", min_width=280, render_markdown=False, buttons=[]
                )
                for name in names
            ]
        box = gradio.Textbox(
            "", label="Your message, to each model", placeholder="Enter sends it", max_lines=6, autofocus=True
        )
        with gradio.Row():
            send = gradio.Button("Send", variant="primary", min_width=90)
            stop = gradio.Button("Stop", variant="stop", min_width=90, interactive=False)
            clear = gradio.Button("Clear", min_width=90)
        with gradio.Accordion("Settings", open=False):
            system = gradio.Textbox("", label="System prompt", placeholder="none", max_lines=4)
            temperature = gradio.Slider(
                0, 2, 0, step=0.1, label="Temperature", info="0 takes the likeliest token every time"
            )
            longest = gradio.Slider(16, 1024, 128, step=1, label=f"{_LONGEST} (max_new_tokens)")
        gradio.on(
            [box.submit, send.click],
            answer,
            [visitor, box, system, temperature, longest],
            [box, send, stop, *panes],
            show_progress="hidden",
            trigger_mode="once",
            concurrency_limit=4,
            api_visibility="private",
        )
        stop.click(lambda visitor: visits[visitor].stop(), visitor, queue=False, api_visibility="private")
        clear.click(cleared, visitor, panes, queue=False, api_visibility="private")
    return page


def _begun(
    loaded: Loaded, messages: list[Message], longest: int, temperature: float
) -> StreamedReply | Exception:
    try:
        return StreamedReply(*loaded, messages, int(longest), temperature)
    except Exception as error:  # too long, or refused by the chat template: for the reader, not for the log
        return error


def _message(reply: StreamedReply | Exception) -> Message:
    error = reply.error if isinstance(reply, StreamedReply) else reply
    if error is None:
        return {"role": "assistant", "content": reply.text}
    sentence = machine_failure(error) or str(error)
    sentence = sentence.replace(SHORTEN, f'begin anew with "Clear", or lower "{_LONGEST}" in the settings')
    return {"role": "assistant", "content": sentence, "failed": True}


def _shown(said: list[Message]) -> list[Message]:
    """Return messages as the page takes them, which reads HTML."""
    return [
        {
            "role": message["role"],
            "content": _SPACES.sub(
                lambda found: "".join(f"&#{ord(space)};" for space in found[0]),
                html.escape(message["content"], quote=False),
            ),
            "metadata": {"title": "No reply"} if message.get("failed") else {},
        }
        for message in said
    ]


def _shown_to_model(system: str, said: list[Message]) -> list[Message]:
    """Return a conversation without the messages that a model did not answer, and why."""
    shown: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
    for message in said:
        if message.get("failed"):
            shown.pop()
        else:
            shown.append(message)
    return shown
