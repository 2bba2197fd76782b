"""Read YAML files of keys and values, with the numbers that people write."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from posttrain_helpers.errors import CourseError


@cache
def _loader() -> type:
    import yaml

    class Loader(yaml.SafeLoader):
        """YAML 1.2 numbers (YAML 1.1 reads 5e-4 as text because it has no dot), and each key once."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key, _ in node.value:
                if keys.count(key.value) > 1:
                    problem = f"the key {key.value!r} is there twice"
                    raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            return super().construct_mapping(node, deep)

    Loader.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
    return Loader


def parsed_yaml(text: str | bytes, where: str) -> Any:
    """Return what a YAML text says, with numbers as YAML 1.2 writes them.

    Args:
        text: the text, or the bytes of a file in UTF-8 or UTF-16.
        where: what to call it in an error.

    Raises:
        CourseError: it is not valid YAML, or in another encoding; the sentence names the line.
    """
    import yaml

    try:
        return yaml.load(text, Loader=_loader())
    except yaml.reader.ReaderError as error:
        raise CourseError(
            f"{where} cannot be read as text in UTF-8 ({error.reason} at character {error.position + 1}); "
            "save it as UTF-8."
        ) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f" at line {mark.line + 1}" if mark else ""
        raise CourseError(
            f"{where} is not valid YAML{place}: {getattr(error, 'problem', error)}; correct that line."
        ) from error
    except (ValueError, RecursionError) as error:  # a date that is none, brackets in brackets without end
        raise CourseError(f"{where} is not valid YAML: {error}; correct it.") from error


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys and values of a YAML file.

    Raises:
        CourseError: it is not valid YAML, or holds something else than keys and values.
    """
    document = parsed_yaml(path.read_bytes(), str(path))
    if not isinstance(document, dict):
        raise CourseError(
            f"{path} must hold keys such as method, data and args; found {type(document).__name__}."
        )
    return document
