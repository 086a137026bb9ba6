"""Continuations told piece by piece: whole characters, and nothing of a text that ends them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

from starlette.responses import Response

from lmdata.tokenizer import Tokenizer
from lmmodel.serving.refusals import to_json

_UNFINISHED = "\ufffd"  # what a character is decoded to whose last bytes are yet to come


class Pieces:
    """What is new of each continuation.

    Args:
        tokenizer: of the model
        stops: texts at which a continuation ends, which are not part of it

    Attributes:
        texts: of each continuation, what was told so far
        is_stopped: whether a stop came
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._tokenizer = tokenizer
        self._stops = stops
        self.texts: list[str] = []
        self.is_stopped: list[bool] = []

    @property
    def are_all_stopped(self) -> bool:
        """Whether there is nothing more to tell."""
        return bool(self.is_stopped) and all(self.is_stopped)

    def add(self, ids: Sequence[Sequence[int]]) -> Iterator[tuple[int, str]]:
        """Yield the number and the new text of each continuation that has any.

        Args:
            ids: of each continuation so far
        """
        if not self.texts:
            self.texts, self.is_stopped = [""] * len(ids), [False] * len(ids)
        for index, own in enumerate(ids):
            text = self._tokenizer.decode(list(own), skip_special_tokens=True)
            piece = self._new(index, text.rstrip(_UNFINISHED), is_last=False)
            if piece:
                yield index, piece

    def rest(self, index: int, text: str) -> str:
        """Return what is left to tell of a continuation that is finished."""
        return self._new(index, text, is_last=True)

    def _new(self, index: int, text: str, *, is_last: bool) -> str:
        if self.is_stopped[index]:
            return ""
        places = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if places:
            text, self.is_stopped[index] = text[: min(places)], True
        elif not is_last:
            text = text[: len(text) - self._num_withheld(text)]
        told = self.texts[index]
        if not text.startswith(told):  # a decoder that changes what it said before
            return ""
        self.texts[index] = text
        return text[len(told) :]

    def _num_withheld(self, text: str) -> int:
        """Return how many characters at the end may begin a stop."""
        return max(
            (
                size
                for stop in self._stops
                for size in range(min(len(stop) - 1, len(text)), 0, -1)
                if text.endswith(stop[:size])
            ),
            default=0,
        )


class EventStream(Response):
    """Server-sent events, one line of JSON each."""

    def __init__(self, run: Callable[[Any], Awaitable[None]]) -> None:
        super().__init__(media_type="text/event-stream")
        del self.headers["content-length"]
        self.headers["cache-control"] = "no-store"
        self._run = run

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Send what there is to send, as it comes."""
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await send(start)

        async def event(value: Any) -> None:
            line = value if isinstance(value, bytes) else to_json(value)
            body = b"data: " + line + b"\n\n"
            await send({"type": "http.response.body", "body": body, "more_body": True})

        await self._run(event)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
