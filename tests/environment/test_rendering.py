from pathlib import Path

import pytest
from jinja2 import UndefinedError

from posttrain_helpers.environment.rendering import html_environment, visible


def rendered(directory: Path, template: str, **values: object) -> str:
    (directory / "page.html").write_text(template, encoding="utf-8")
    return html_environment(directory).get_template("page.html").render(**values)


def test_values_are_escaped_and_control_characters_become_visible(tmp_path: Path) -> None:
    template = "{% macro bold(text) %}<b>{{ text }}</b>{% endmacro %}{{ bold(name) }}{{ name|lines }}"
    shown = rendered(tmp_path, template, name="<i>\x1b\n")
    assert shown == "<b>&lt;i&gt;\N{REPLACEMENT CHARACTER}\n</b>&lt;i&gt;\N{REPLACEMENT CHARACTER}<br>"


def test_a_value_that_is_not_given_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UndefinedError):
        rendered(tmp_path, "{{ missing }}")


def test_only_the_characters_to_keep_stay() -> None:
    assert visible("a\tb\nc\x07") == "a\tb\nc\N{REPLACEMENT CHARACTER}"
    assert visible("a\tb", keep="") == "a\N{REPLACEMENT CHARACTER}b"
