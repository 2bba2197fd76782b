"""`serve`: a finished model behind `transformers serve`, which speaks OpenAI's protocol.

The library's server runs in this process, so nothing is left when the process ends. It gets a directory that
loads without the course: an adapter is merged, and what the course repairs when it loads is written down.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from posttrain_helpers.environment.imports import is_installed
from posttrain_helpers.environment.paths import naming_file, output_root
from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.environment.runtime import current_runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.targets import label_of
from posttrain_helpers.models.loading import head_of, load_repaired, model_directory
from posttrain_helpers.models.manifest import MANIFEST, STAGE_NAME, finished_stage, location
from posttrain_helpers.serving.requests import request_fault

if TYPE_CHECKING:
    from fastapi import FastAPI

_OF_THIS_MACHINE = ["localhost", "127.0.0.1", "::1", "[::1]"]


def serve(name: str, host: str, port: int, profile: Profile) -> None:
    """Serve a model until Ctrl-C or a signal to end.

    Args:
        name: "base", a finished stage (none is built), a directory, or a Hub id.
        host: the address to listen on.
        port: of that address.
        profile: what "base" and stages refer to.

    Raises:
        CourseError: a package is missing, the address cannot be had, or there is no such model.
    """
    check_installed("serve", "fastapi", "openai", "uvicorn")
    hosts = check_address(host, port)
    try:
        with ended_by_signals(), servable(name, profile) as directory:
            from transformers.cli import serving
            from transformers.cli.serve import Serve
            from transformers.cli.serving.model_manager import ModelManager

            # It would list what lies in the cache of the Hub, and none of that is served.
            entry = {"id": directory.name, "object": "model", "created": 0, "owned_by": "posttrain"}
            ModelManager.get_gen_models = staticmethod(lambda cache_dir=None: [entry])
            build = serving.server.build_server
            fault = _fault_finder(directory)
            serving.server.build_server = lambda *args, **named: _restricted(
                build(*args, **named), hosts, fault
            )
            os.chdir(directory.parent)  # clients name the model as the server does
            print(f"serving {directory.name!r} at http://{host}:{port}/v1 until Ctrl-C", flush=True)
            device = current_runtime(profile).device
            Serve(force_model=directory.name, host=host, port=port, device=device, reasoning="off")
    except KeyboardInterrupt:
        print("stopped")


def _fault_finder(directory: Path) -> Callable[[Mapping[str, Any]], str | None]:
    """Return what says what is wrong with a request to the model of a directory."""
    from transformers import AutoConfig, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory)
    config = AutoConfig.from_pretrained(directory).get_text_config()
    return partial(
        request_fault, tokenizer=tokenizer, positions=getattr(config, "max_position_embeddings", None)
    )


def _restricted(app: FastAPI, hosts: list[str], fault: Callable[[Mapping[str, Any]], str | None]) -> FastAPI:
    """Return a server of one model that refuses what it cannot answer and what calls it by another host."""
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    def refused(sentence: str, status: int) -> JSONResponse:
        return JSONResponse({"error": {"message": sentence, "type": "invalid_request_error"}}, status)

    @app.middleware("http")
    async def checked(request: Request, call_next: Callable[[Request], Awaitable[Any]]) -> Any:
        path = request.url.path
        if path in ("/load_model", "/reset"):
            return refused("this server keeps to the model that it was started with", 403)
        if path.startswith("/v1/") and path not in ("/v1/chat/completions", "/v1/models"):
            return refused("this server answers /v1/chat/completions only", 404)
        if path == "/v1/chat/completions":
            with suppress(ValueError):  # no JSON, which the server says itself
                asked = json.loads(await request.body())
                if isinstance(asked, dict) and (sentence := fault(asked)):
                    return refused(sentence, 400)
        return await call_next(request)

    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Let a signal to end, and a terminal that is closed, do what Ctrl-C does: leave nothing behind."""
    ends = {"SIGTERM": signal.default_int_handler, "SIGHUP": lambda *_: signal.raise_signal(signal.SIGTERM)}
    handlers = {getattr(signal, name): ends[name] for name in ends if hasattr(signal, name)}
    former = {number: signal.getsignal(number) for number in handlers}
    for number, handler in handlers.items():
        if former[number] is signal.SIG_DFL:  # nohup lets the second be ignored
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


@contextmanager
def servable(name: str, profile: Profile) -> Iterator[Path]:
    """Yield a directory of whole weights that other programs load as the course does, named as the model."""
    place = finished_place(name, profile)
    directory, label = model_directory(place, None, profile), label_of(name)
    directory = Path(os.path.abspath(directory))  # "." has no name
    adapter = (directory / "adapter_config.json").is_file()
    if (directory / MANIFEST).is_file() and not adapter and head_of(directory) == "language":
        yield directory  # saving a stage has repaired it
        return
    model, tokenizer, repairs = load_repaired(
        place, "cpu", dtype="auto", merge=True, head="language", profile=profile
    )
    if not adapter and not repairs and directory.name == label:
        yield directory
        return
    with _own_directory(output_root() / profile.name / "serving") as own:
        model.save_pretrained(own / label)
        tokenizer.save_pretrained(own / label)
        del model
        yield own / label


@contextmanager
def _own_directory(root: Path) -> Iterator[Path]:
    """Yield a new directory for as long as this process lives, and remove those of killed processes."""
    from filelock import FileLock, Timeout

    with naming_file(root):
        root.mkdir(parents=True, exist_ok=True)
        for path in root.glob("*.lock"):
            # Whoever holds it still needs its directory.
            with suppress(Timeout, OSError), FileLock(path, timeout=0):
                shutil.rmtree(path.with_suffix(""), ignore_errors=True)
                path.unlink(missing_ok=True)
        own = root / uuid4().hex
        with FileLock(own.with_suffix(".lock")) as lock:
            try:
                own.mkdir()
                yield own
            finally:
                shutil.rmtree(own, ignore_errors=True)
                with suppress(OSError):  # Windows does not let go of what is open
                    Path(lock.lock_file).unlink()


def finished_place(name: str, profile: Profile) -> str:
    """Return what to load for a name; a stage must be there and whole."""
    place = location(name, profile)
    known = profile.model_named(name) is not None or (place == name and Path(name).exists())
    if known or not STAGE_NAME.fullmatch(name):
        return place
    return str(finished_stage(name, profile))


def check_installed(extra: str, *packages: str) -> None:
    """Check that what an extra of the installation brings is there.

    Raises:
        CourseError: the sentence says how to install it.
    """
    if missing := [package for package in packages if not is_installed(package)]:
        raise CourseError(
            f"{extra} needs {', '.join(missing)}, which is not part of the plain installation; install it: "
            f'python -m pip install -e ".[{extra}]"'
        )


def check_address(host: str, port: int) -> list[str]:
    """Check that nobody listens on an address, before a model is loaded, and say who will reach it.

    Returns:
        The names by which clients may call it. What only this machine reaches is called by its own: no page
        from elsewhere, whose owner lets its name point here, is answered.

    Raises:
        CourseError: somebody does, or it is none of this machine.
    """
    try:
        if not 0 < port < 2**16:
            raise OverflowError("a port is a number from 1 to 65535")
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            if os.name == "posix":  # a connection that has just ended is no listener
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
        if ip_address(address[0].partition("%")[0]).is_loopback:
            return [*_OF_THIS_MACHINE, host]
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CourseError(
            f"nothing can listen on {host}, port {port} ({reason}); choose another one with --port or --host."
        ) from error
    print(
        f"anyone who reaches this machine as {host} can use what is served; there is no password.", flush=True
    )
    return ["*"]
