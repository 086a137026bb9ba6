"""Many requests to a few models at once: whole requests share batches, no answer depends on which.

submit ─▶ read (in the caller's thread) ─▶ queue, counted in tokens ─▶ a worker: a batch ─▶ future

A worker that is idle takes what is waiting at once, up to `max_batch_tokens`; what comes meanwhile
is the next batch. On a CPU there is a worker for each core, with one thread of torch each, as the
command line computes; on a GPU there is one.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import torch

from lmmodel.cores import num_cores
from lmmodel.errors import LmmodelError
from lmmodel.inference import make_kernels
from lmmodel.routing.team import Experts
from lmmodel.serving.questions import (
    AnyQuestion,
    Embed,
    FillMask,
    Generate,
    Model,
    Score,
    Tokens,
    UnableError,
)
from lmmodel.serving.routed import Routed, answering, wrapped
from lmmodel.serving.task_questions import Answer, Classify, Tag

QUESTIONS: tuple[type[AnyQuestion], ...] = (Embed, FillMask, Score, Generate, Classify, Tag, Answer)


def can_do(model: Model | Experts) -> list[str]:
    """Return the verbs that a model can be asked."""
    return [kind.verb for kind in QUESTIONS if kind.is_for(answering(model))]


# Where a core is idle too, work is shared out rather than taken whole, down to so many tokens.
_LEAST_SHARE = 512


class BusyError(LmmodelError):
    """As many tokens wait as may; `retry_after_s` says when to ask again."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooLargeError(LmmodelError):
    """One request has more tokens than may ever wait."""


class ClosedError(LmmodelError):
    """The engine takes no requests any more."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """How much is computed together, and how much may wait."""

    max_batch_tokens: int = 16_384
    """Tokens of one batch at most, at least 1; a longer request is a batch by itself."""
    max_queue_tokens: int = 65_536
    """Tokens that wait or are computed at most, at least `max_batch_tokens`."""
    num_workers: int | None = None
    """Batches computed at once, at least 1; None: one a core, on a GPU one."""

    def __post_init__(self) -> None:
        if self.max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens must be at least 1, got {self.max_batch_tokens}")
        if self.max_queue_tokens < self.max_batch_tokens:
            raise ValueError(
                f"max_queue_tokens must be at least max_batch_tokens, {self.max_batch_tokens}, got "
                f"{self.max_queue_tokens}"
            )
        if self.num_workers is not None and self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")


class Watcher(Protocol):
    """Is told what the engine does; called by its workers."""

    def computed(self, verb: str, num_requests: int, num_tokens: int, seconds: float) -> None:
        """Take note of a batch."""
        ...


class Pending(Future[Any]):
    """An answer to come; cancelling it takes the request out of the queue.

    Attributes:
        tokens: how many the request has
    """

    def __init__(self, tokens: Tokens) -> None:
        super().__init__()
        self.tokens = tokens


@dataclass(eq=False)
class _Ticket:
    """A request that waits, or whose next token waits for its turn."""

    model: str
    question: AnyQuestion
    reading: Any
    future: Pending
    on_token: Callable[[list[list[int]]], None] | None
    steps: Iterator[Any] | None = None
    has_left: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens that the model computes."""
        return self.future.tokens.computed

    @property
    def kind(self) -> tuple[str, type, str]:
        """Tickets of one kind share a batch."""
        return self.model, type(self.question), self.question.verb


@dataclass(frozen=True)
class _Outcome:
    """What a request came to: an answer, or an error."""

    ticket: _Ticket
    answer: Any = None
    error: Exception | None = None

    def hand_over(self) -> None:
        """Give it to who asked, unless nobody waits for it any more."""
        future = self.ticket.future
        try:
            if self.error is None:
                future.set_result(self.answer)
            else:
                future.set_exception(self.error)
        except InvalidStateError:  # cancelled meanwhile
            assert future.cancelled()


class Engine:
    """Models that answer many requests at once.

    Args:
        models: by the names that requests call them
        config: None: the defaults
        watcher: is told of every batch

    Example::

        with Engine({"wiki": load_run("runs/wiki")}) as engine:
            vectors = engine.submit("wiki", Embed(texts=["A cat sleeps."])).result().vectors
    """

    def __init__(
        self,
        models: Mapping[str, Model | Experts],
        config: EngineConfig | None = None,
        watcher: Watcher | None = None,
    ) -> None:
        self.models = dict(models)
        self.config = config or EngineConfig()
        self._watcher = watcher
        self._tickets: OrderedDict[int, _Ticket] = OrderedDict()  # waiting, by their identity
        self._num_tokens = 0  # waiting or computed
        self._rate = 0.0  # tokens a second that were computed of late, by all workers
        self._num_idle = 0
        self._is_closed = False
        self._changed = threading.Condition()
        devices = [model.device for model in self.models.values()]
        most = max(map(num_cores, devices), default=1)
        self._workers = [
            threading.Thread(target=self._work, name=f"model-{number}", daemon=True)
            for number in range(self.config.num_workers or most)
        ]
        for worker in self._workers:
            worker.start()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def num_waiting_tokens(self) -> int:
        """Tokens that wait or are computed just now."""
        return self._num_tokens

    @property
    def num_waiting(self) -> int:
        """Requests that wait for a worker."""
        return len(self._tickets)

    def submit(
        self,
        model: str,
        question: AnyQuestion,
        *,
        on_token: Callable[[list[list[int]]], None] | None = None,
    ) -> Pending:
        """Return the answer to come.

        The texts are read in the calling thread.

        Args:
            model: its name
            question: one of `serving.questions`; the answer is what its class says
            on_token: of `Generate`: called by a worker after each token with the ids of all
                continuations so far

        Raises:
            KeyError: no model of that name
            UnableError: the model can not be asked this
            FitError, TokenizerError, ValueError: a text is empty or does not fit the model
            TooLargeError, BusyError, ClosedError: the request can't be taken
        """
        asked: Any = self.models[model]
        question = wrapped(question, asked)
        if not question.is_for(asked):
            raise UnableError(
                f"{model} can't {question.verb}: it can be asked {', '.join(can_do(asked))}"
            )
        reading = question.read(asked)
        pending = Pending(question.count_tokens(asked, reading))
        ticket = _Ticket(model, question, reading, pending, on_token)
        if isinstance(question, Generate | Routed) and question.verb == Generate.verb:
            ticket.steps = question.steps(asked, reading)
        with self._changed:
            self._admit(ticket)
        ticket.future.add_done_callback(lambda _: self._leave(ticket))
        return ticket.future

    def make_kernels(self) -> None:
        """Make now what the first batches of each size would make, so that memory stays as it is.

        Requests are taken meanwhile; it ends early where the engine is closed.
        """
        for model in self.models.values():
            for one in model.runs if isinstance(model, Experts) else (model,):
                for _ in make_kernels(one.prepared()):
                    if self._is_closed:
                        return

    def close(self, timeout_s: float | None = None) -> None:
        """Take no more requests, and return when those taken are answered, or after a time."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for worker in self._workers:
            worker.join(timeout_s)

    def _admit(self, ticket: _Ticket) -> None:
        most, now = self.config.max_queue_tokens, self._num_tokens
        if self._is_closed:
            raise ClosedError("the server is shutting down: ask another one, or later")
        if ticket.num_tokens > most:
            raise TooLargeError(
                f"the request takes {ticket.num_tokens:,} tokens of computing, at most {most:,} "
                "are taken at once: send fewer or shorter texts in one request"
            )
        if now + ticket.num_tokens > most:
            seconds = max(1, round(now / self._rate)) if self._rate else 1
            raise BusyError(
                f"{now:,} tokens are waiting, at most {most:,} may: ask again in {seconds} s",
                min(seconds, 60),
            )
        self._num_tokens += ticket.num_tokens
        self._tickets[id(ticket)] = ticket
        self._changed.notify()

    def _leave(self, ticket: _Ticket) -> None:
        """Give the room of an answered or cancelled request to others."""
        with self._changed:
            self._tickets.pop(id(ticket), None)
            if not ticket.has_left:
                self._num_tokens -= ticket.num_tokens
            ticket.has_left = True

    # ---- Workers

    def _work(self) -> None:
        if all(model.device.type == "cpu" for model in self.models.values()):
            torch.set_num_threads(1)  # of this thread
        while tickets := self._take():
            start = time.perf_counter()
            if tickets[0].steps is not None:
                outcomes = self._step(tickets[0])
            else:
                outcomes = _answer(self.models[tickets[0].model], tickets)
            self._note(tickets, time.perf_counter() - start)
            for outcome in outcomes:  # last: who has an answer finds it counted, and its room free
                self._leave(outcome.ticket)
                outcome.hand_over()

    def _take(self) -> list[_Ticket]:
        """Return requests of one kind, first come first served; none when all is done."""
        with self._changed:
            self._num_idle += 1
            while not self._tickets:
                if self._is_closed:
                    self._num_idle -= 1
                    self._changed.notify_all()
                    return []
                self._changed.wait()
            first = next(iter(self._tickets.values()))
            room = self._room(first)
            taken = []
            for ticket in list(self._tickets.values()):
                fits = ticket is first or ticket.num_tokens <= room
                if ticket.kind == first.kind and fits:
                    room -= ticket.num_tokens
                    taken.append(ticket)
                    del self._tickets[id(ticket)]
                if room <= 0 or first.steps is not None:
                    break
            self._num_idle -= 1
            if self._tickets:
                self._changed.notify()
        return taken

    def _room(self, first: _Ticket) -> int:
        """Return how many tokens to take: all that fit, or a share where others are idle too."""
        waiting = sum(t.num_tokens for t in self._tickets.values() if t.kind == first.kind)
        share = max(_LEAST_SHARE, -(-waiting // self._num_idle))
        return min(self.config.max_batch_tokens, share)

    def _step(self, ticket: _Ticket) -> list[_Outcome]:
        """Compute the next token of a generation, and let it wait for its next turn."""
        if ticket.future.cancelled():
            return []
        assert ticket.steps is not None
        try:
            ids, found = next(ticket.steps)
            if ticket.on_token is not None:
                ticket.on_token([list(own) for own in ids])
        except Exception as error:  # whatever it is belongs to who asked
            return [_Outcome(ticket, error=error)]
        if None not in found:
            return [_Outcome(ticket, list(found))]
        with self._changed:
            if not ticket.future.cancelled():
                self._tickets[id(ticket)] = ticket
                self._changed.notify()
        return []

    def _note(self, tickets: list[_Ticket], seconds: float) -> None:
        num_tokens = sum(ticket.num_tokens for ticket in tickets)
        if tickets[0].steps is None and seconds > 0:
            now = num_tokens / seconds * len(self._workers)
            self._rate = now if not self._rate else 0.8 * self._rate + 0.2 * now
        if self._watcher is not None:
            self._watcher.computed(tickets[0].question.verb, len(tickets), num_tokens, seconds)


def _answer(model: Any, tickets: list[_Ticket]) -> list[_Outcome]:
    """Compute requests together; where that fails, each by itself."""
    going = [ticket for ticket in tickets if ticket.future.set_running_or_notify_cancel()]
    if not going:
        return []
    try:
        asked = [(ticket.question, ticket.reading) for ticket in going]
        answers = type(going[0].question).compute(model, asked)
    except Exception as error:  # whatever it is belongs to who asked
        if len(going) == 1:
            return [_Outcome(going[0], error=error)]
        return [_answer_alone(model, ticket) for ticket in going]
    return [_Outcome(ticket, answer) for ticket, answer in zip(going, answers, strict=True)]


def _answer_alone(model: Any, ticket: _Ticket) -> _Outcome:
    try:
        asked = [(ticket.question, ticket.reading)]
        return _Outcome(ticket, type(ticket.question).compute(model, asked)[0])
    except Exception as error:  # whatever it is belongs to who asked
        return _Outcome(ticket, error=error)
