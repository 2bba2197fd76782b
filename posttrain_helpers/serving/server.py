"""`serve`: a finished model behind `transformers serve`, which speaks OpenAI's protocol.

The library's server runs in this process, so nothing is left when the process ends. It gets a directory that
loads without the course: an adapter is merged, and what the course repairs when it loads is written down.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from posttrain_helpers.environment.paths import naming_file, output_root
from posttrain_helpers.environment.profiles import Profile
from posttrain_helpers.environment.runtime import current_runtime
from posttrain_helpers.errors import CourseError
from posttrain_helpers.evaluation.targets import label_of
from posttrain_helpers.models.loading import head_of, load_repaired, model_directory
from posttrain_helpers.models.manifest import MANIFEST, STAGE_NAME, finished_stage, location

LOOPBACK = "127.0.0.1"


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
    check_address(host, port)
    with servable(name, profile) as directory:
        from transformers.cli.serve import Serve
        from transformers.cli.serving.model_manager import ModelManager

        # It would list what lies in the cache of the Hub, and none of that is served.
        entry = {"id": directory.name, "object": "model", "created": 0, "owned_by": "posttrain"}
        ModelManager.get_gen_models = staticmethod(lambda cache_dir=None: [entry])
        os.chdir(directory.parent)  # clients name the model as the server does
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"serving {directory.name!r} at http://{host}:{port}/v1 until Ctrl-C", flush=True)
        device = current_runtime(profile).device
        try:
            Serve(force_model=directory.name, host=host, port=port, device=device, reasoning="off")
        except KeyboardInterrupt:
            print("stopped")


@contextmanager
def servable(name: str, profile: Profile) -> Iterator[Path]:
    """Yield a directory of whole weights that other programs load as the course does, named as the model."""
    place = finished_place(name, profile)
    directory, label = model_directory(place, None, profile), label_of(name)
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
    root = output_root() / profile.name / "serving"
    with naming_file(root):
        root.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=root) as temporary:
            copy = Path(temporary) / label
            model.save_pretrained(copy)
            tokenizer.save_pretrained(copy)
            del model
            yield copy


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
    if missing := [package for package in packages if find_spec(package) is None]:
        raise CourseError(
            f"{extra} needs {', '.join(missing)}, which is not part of the plain installation; install it: "
            f'python -m pip install -e ".[{extra}]"'
        )


def check_address(host: str, port: int) -> None:
    """Check that nobody listens on an address, before a model is loaded.

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
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CourseError(
            f"nothing can listen on {host}, port {port} ({reason}); choose another one with --port or --host."
        ) from error
