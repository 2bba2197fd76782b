"""Questions of several shapes, and two replies to each, for tests of judges."""

from __future__ import annotations


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


ITEMS = [
    {"id": "france", "prompt": [user("What is the capital of France?")]},
    {"id": "cow", "prompt": [{"role": "system", "content": "Be brief."}, user("What says a cow?")]},
    {"id": "sum", "prompt": "3 + 4 ="},
    {"id": "owl", "prompt": [user("Hello."), assistant("Hi."), user("Can an owl fly?")]},
]
FIRST = ["The capital of France is Paris.", "moo", "7", "An owl can fly."]
SECOND = ["Paris", "A cow says moo moo moo moo moo moo.", "3 + 4 = 8", "no"]
