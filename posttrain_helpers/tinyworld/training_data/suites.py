"""Held-out suites by name, each made when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from posttrain_helpers.tinyworld.tasks import SUITES, Item, held_out_suite


class Suites(Mapping[str, list[Item]]):
    """Suites of one source and all suites of `tasks`; looking at the names makes none of them.

    Args:
        own: name and maker of each suite that the source adds; some of them need sampling.
    """

    def __init__(self, own: Mapping[str, Callable[[], list[Item]]]) -> None:
        common = {name: lambda name=name: held_out_suite(name) for name in SUITES}
        self._makers: dict[str, Callable[[], list[Item]]] = {**own, **common}

    def __getitem__(self, name: str) -> list[Item]:
        return self._makers[name]()

    def __contains__(self, name: object) -> bool:
        return name in self._makers

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)
