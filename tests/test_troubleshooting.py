"""The troubleshooting page quotes what is printed, names commands that exist, and links to what is there."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from posttrain_helpers.cli import _parse, build_parser
from posttrain_helpers.environment.paths import repository_root
from posttrain_helpers.lessons.run import select
from posttrain_helpers.recipes import load_recipe

PAGE = repository_root() / "docs" / "troubleshooting.md"
TEXT = PAGE.read_text(encoding="utf-8")
PROGRAM = "python -m posttrain_helpers"
FENCE = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)]+)\)")
GAP = "…"


def blocks(kind: str, text: str = TEXT) -> list[tuple[str, str]]:
    """Return (what follows the kind, content) of every fenced block of a kind."""
    return [(origin, content.strip()) for found, origin, content in FENCE.findall(text) if found == kind]


def commands(text: str = TEXT) -> list[str]:
    fenced = [line for _, content in blocks("bash", text) for line in content.splitlines()]
    return fenced + re.findall(r"`(python -m [^`\n]+)`", FENCE.sub("", text))


def entries(text: str = TEXT) -> list[tuple[str, str]]:
    """Return heading and body of every entry; the groups that hold them end an entry."""
    parts = re.split(r"^(#{1,3}) (.+)$", text, flags=re.MULTILINE)[1:]
    triples = zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    return [(title, body) for level, title, body in triples if level == "###"]


def closed_up(text: str) -> str:
    """Write every gap the same way, so that a quoted `… …` fits two fields side by side."""
    return re.sub(rf"{GAP}(\s*{GAP})*", GAP, " ".join(text.split()))


def messages_of(source: str) -> Iterator[str]:
    """Yield the strings of a module that are no docstrings, with a gap for each value that is filled in."""
    tree = ast.parse(source)
    skipped = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(part) for part in node.values)
            yield closed_up(
                "".join(part.value if isinstance(part, ast.Constant) else GAP for part in node.values)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield closed_up(node.value)


@cache
def messages(origin: str) -> tuple[str, ...]:
    """Return the strings of the package, or of the file that a block names."""
    if not origin:
        paths = sorted((repository_root() / "posttrain_helpers").rglob("*.py"))
    elif (repository_root() / origin).is_file():
        paths = [repository_root() / origin]
    else:
        package, _, rest = origin.partition("/")
        paths = [Path(find_spec(package).submodule_search_locations[0]) / rest]
    return tuple(text for path in paths for text in messages_of(path.read_text(encoding="utf-8")))


def is_printed(quote: str, origin: str = "") -> bool:
    """Say whether a quote is a message, or a part of one; a gap at either end stands for any more."""
    wanted = closed_up(quote).strip(f"{GAP} ")
    return bool(wanted) and any(wanted in message for message in messages(origin))


@pytest.mark.parametrize(("origin", "quote"), blocks("text"), ids=lambda value: value[:40])
def test_every_quote_is_a_message_of_the_source(origin: str, quote: str) -> None:
    assert is_printed(quote, origin), f"{origin or 'posttrain_helpers'} holds no such message: {quote}"


@pytest.mark.parametrize(
    ("quote", "origin"),
    [
        ("the mask hides each reply; check the …", ""),  # a word differs
        ("a cell's source changed … the outputs were recorded", ""),  # a gap where nothing is filled in
        ("What can make a training worthless without an error", ""),  # a docstring: nobody reads it
        ("the key … was renamed; write …", "trl/trainer/grpo_config.py"),  # another file's message
        ("… …", ""),  # nothing is quoted
    ],
)
def test_a_quote_that_nobody_prints_is_found(quote: str, origin: str) -> None:
    assert not is_printed(quote, origin)


@pytest.mark.parametrize("command", sorted(set(commands())))
def test_every_command_exists(command: str) -> None:
    words = shlex.split(command, comments=True)
    assert words[:2] == ["python", "-m"], "write commands so that they run in the active environment"
    assert find_spec(words[2]) is not None
    if command.startswith(PROGRAM):
        arguments = _parse(build_parser(), words[3:])
        if arguments.command == "train":  # refuses an unknown recipe, key or value
            load_recipe(arguments.recipe, arguments.profile, arguments.overrides)
        elif arguments.command == "run":
            assert select(arguments.lessons)
    for name in (word for word in words if word.endswith(".txt")):
        assert (repository_root() / name).is_file()


def test_the_commands_are_found() -> None:
    text = "```bash\npython -m a\n```\nor `python -m b c` or `pip`"
    assert commands(text) == ["python -m a", "python -m b c"]
    assert sum(command.startswith(PROGRAM) for command in commands()) >= 5


def test_every_command_is_refused_when_it_is_misspelt(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("runs 01", "run --in-place-now", "evaluate base --chat-template alpaca"):
        with pytest.raises(SystemExit):
            test_every_command_exists(f"{PROGRAM} {command}")
    with pytest.raises(ValueError, match="does not exist"):
        test_every_command_exists(f"{PROGRAM} train sft args.learning_rates=1")


@pytest.mark.parametrize("content", [content for _, content in blocks("python")])
def test_what_the_python_blocks_import_exists(content: str) -> None:
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.ImportFrom):
            module = import_module(node.module)
            assert all(hasattr(module, alias.name) for alias in node.names)


@pytest.mark.parametrize("link", sorted(set(LINK.findall(TEXT))))
def test_every_link_resolves(link: str) -> None:
    path, _, fragment = link.partition("#")
    assert "://" not in link, "this page works offline"
    target = PAGE.parent / path if path else PAGE
    assert target.is_file()
    if fragment:
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert fragment in {anchor(heading) for heading in headings}


@pytest.mark.parametrize("link", ["absent.md", "../notebooks", "#absent", "https://example.com/"])
def test_a_link_that_leads_nowhere_is_found(link: str) -> None:
    with pytest.raises(AssertionError):
        test_every_link_resolves(link)


def anchor(heading: str) -> str:
    """Return the name under which GitHub links to a heading."""
    return re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")


@pytest.mark.parametrize(("title", "body"), entries(), ids=lambda value: value[:40])
def test_every_entry_says_why_and_what_to_do(title: str, body: str) -> None:
    assert re.findall(r"^\*\*(Why|Do)\.\*\*", body, re.MULTILINE) == ["Why", "Do"]


def test_an_entry_without_its_two_parts_is_found() -> None:
    [(title, body)] = entries("## Group\n\n### Symptom\n\n**Why.** Because.\n")
    with pytest.raises(AssertionError):
        test_every_entry_says_why_and_what_to_do(title, body)


def test_the_page_is_short_enough_to_search_by_eye() -> None:
    titles = [title for title, _ in entries()]
    assert len(titles) == len(set(titles))
    assert 20 <= len(titles) <= 40
