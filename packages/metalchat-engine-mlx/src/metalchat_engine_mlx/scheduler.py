"""Continuous batching: requests join and leave between two steps, and every step computes a token of each.

One thread does all of a model's work. It lives as long as there is some.
"""

import atexit
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import accumulate
from typing import Any, Generic, TypeVar

import mlx.core as mx
import numpy as np
from metalchat_engine import ModelClosed

from metalchat_engine_mlx.errand import Errand
from metalchat_engine_mlx.job import Job, Plan
from metalchat_engine_mlx.memory import GUESSED
from metalchat_engine_mlx.outbox import Outbox
from metalchat_engine_mlx.rope import Regime
from metalchat_engine_mlx.running import Remembers, Runs
from metalchat_engine_mlx.speculation import Speculation
from metalchat_engine_mlx.visits import Visit, Visits

_D = TypeVar("_D", bound=Runs)
_T = TypeVar("_T")

# Prompts that begin with as many equal tokens are computed one after the other: the second takes over from the first.
_ALIKE = 64
# While others wait for their next token, pieces of a prompt are this much shorter.
_SHORTER = 4


class Scheduler(Generic[_D]):
    """`batch` answers are computed together at most. `exact` computes each as if it were alone, bit by bit.

    With `speculation`, which `exact` rules out, each guesses ahead for itself. `translated` turns what MLX raises into
    what a request's thread should see; `closed` makes what it sees once the model is closed.
    """

    def __init__(
        self,
        model: _D,
        recall: Remembers,
        stream: mx.Stream,
        *,
        batch: int,
        chunk: int,
        exact: bool,
        translated: Callable[[BaseException], BaseException],
        closed: Callable[[], BaseException],
        speculation: Speculation,
    ) -> None:
        self._model: _D | None = model
        self._recall, self._stream, self._room = recall, stream, recall.room
        self._batch, self._chunk, self._exact = batch, chunk, exact
        self._translated, self._refusal = translated, closed
        self._speculation = speculation
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._idle = self._closed = False
        self._new: list[tuple[Plan, Outbox]] = []
        self._errands: list[Errand[_D, Any]] = []
        self._visits = Visits(self._room)
        # Jobs whose prompt has yet to be begun, is being computed, or is done.
        self._waiting: list[Job] = []
        self._prefilling: deque[Job] = deque()
        self._decoding: list[Job] = []

    def submit(self, plan: Plan) -> Outbox:
        """Have an answer computed. Raises what `closed` makes once the model is closed."""
        outbox = Outbox(self._wake)
        with self._changed:
            if self._closed:
                raise self._refusal()
            self._new.append((plan, outbox))
            self._start()
        return outbox

    def compute(self, work: Callable[[_D], _T]) -> _T:
        """Have something else computed between two steps, and wait for it. Raises what goes wrong, and as `submit`."""
        return self._send(Errand(work))

    @contextmanager
    def visiting(self, tokens: int) -> Iterator[None]:
        """Room for the keys and values of a text of so many tokens, which `compute` makes; waits for it, in turn."""
        visit = Visit(tokens)
        try:
            self._send(visit)
            yield
        finally:
            with suppress(ModelClosed):
                self.compute(lambda _: self._visits.dismiss(visit))

    def _send(self, errand: Errand[_D, _T]) -> _T:
        with self._changed:
            if self._closed:
                raise self._refusal()
            self._errands.append(errand)
            self._start()
        return errand.result()

    def _start(self) -> None:
        """Wake the thread, or make one; the lock is held."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="metalchat-mlx-scheduler", daemon=True)
            self._thread.start()
            # A thread that the interpreter's end meets in the middle of MLX would abort the process.
            atexit.register(self.close)
        self._changed.notify()

    def close(self) -> None:
        """End all answers, wait for the step under way, and let go of the model."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify()
        if thread is not None:
            thread.join()
        self._model, self._speculation = None, Speculation()

    def _wake(self) -> None:
        if self._idle:
            with self._changed:
                self._changed.notify()

    def _run(self) -> None:
        # Or MLX would make a stream for this thread, and keep it for ever.
        mx.set_default_stream(self._stream)
        with mx.stream(self._stream), np.errstate(all="ignore"):
            while self._takes_up():
                if not self._step():
                    self._rest()
                self._sweep()

    def _takes_up(self) -> bool:
        """Let new requests in. False, and the thread ends, where there is nothing left to do."""
        with self._changed:
            new, errands = self._new.copy(), self._errands.copy()
            self._new.clear()
            self._errands.clear()
            model = self._model
            if self._closed or model is None:
                for outbox in [outbox for _, outbox in new] + [job.outbox for job in self._jobs()]:
                    outbox.put(self._refusal())
                for jobs in (self._waiting, self._prefilling, self._decoding):
                    jobs.clear()
                for errand in errands:
                    errand.fail(self._refusal())
                errands.clear()
                self._visits.fail(self._refusal)
            else:
                self._waiting += [
                    Job(model, plan, self._recall, outbox, exact=self._exact, speculation=self._speculation)
                    for plan, outbox in new
                ]
            if not errands and not self._visits and not self._jobs():
                self._thread = None
                atexit.unregister(self.close)
                return False
        for errand in errands:
            if isinstance(errand, Visit):
                self._visits.add(errand, self._waiting)
            elif model is not None:
                errand.run(model)
        self._visits.admit(self._waiting)
        return True

    def _jobs(self) -> list[Job]:
        return [*self._waiting, *self._prefilling, *self._decoding]

    def _sweep(self) -> None:
        """Let go of what has ended, and of what nobody waits for any more."""
        for job in self._jobs():
            if job.outbox.cancelled and not job.ended:
                job.ended = True
                with self._failing([job]):
                    job.keep()
        for job in [job for job in self._jobs() if job.ended]:
            self._room.leave(job)
        if any(job.ended for job in self._jobs()):
            self._waiting = [job for job in self._waiting if not job.ended]
            self._prefilling = deque(job for job in self._prefilling if not job.ended)
            self._decoding = [job for job in self._decoding if not job.ended]

    def _rest(self) -> None:
        """Until a request comes, goes, or takes what was computed for it."""
        with self._changed:
            self._idle = True
            while not (self._closed or self._new or self._errands) and not any(_has_room(job) for job in self._jobs()):
                self._changed.wait()
            self._idle = False

    def _step(self) -> bool:
        """A token of every answer that somebody waits for, and a piece of one prompt. False, if there is nothing."""
        ready = [job for job in self._decoding if not job.outbox.full and self._grows(job)][: self._batch]
        if ready:
            self._decode(ready)
            if len(self._decoding) > self._batch:
                self._decoding = [job for job in self._decoding if job not in ready] + ready
        job = self._next_prompt()
        if job is not None:
            with self._failing([job]):
                shorter = bool(ready) and not self._exact
                job.prefill(max(self._chunk // _SHORTER, 1) if shorter else self._chunk)
            if job.ended:
                self._room.leave(job)
            else:
                (self._decoding if job.prefilled else self._prefilling).append(job)
        return bool(ready) or job is not None

    def _next_prompt(self) -> Job | None:
        """The prompts that have begun take turns, and new ones join them while there is room in the batch."""
        if self._waiting and sum(_has_room(job) for job in self._decoding) + len(self._prefilling) < self._batch:
            for job in self._waiting:
                if not any(job.shares(other.plan.tokens, _ALIKE) for other in self._prefilling):
                    held = self._visits.hold_back(job)
                    job.stalled = held or not self._room.enter(job, len(job.plan.tokens), job.most)
                    if job.stalled:
                        break  # so that short prompts do not for ever overtake a long one
                    self._waiting.remove(job)
                    for other in self._decoding:
                        if other.shares(job.plan.tokens, _ALIKE):
                            with self._failing([job, other]):
                                other.keep_prompt()
                    self._prefilling.append(job)
                    break
        return self._prefilling.popleft() if self._prefilling else None

    def _grows(self, job: Job) -> bool:
        """Whether there is room for the next tokens."""
        job.stalled = not self._room.grow(job, job.cache.length)
        return not job.stalled

    def _decode(self, ready: Sequence[Job]) -> None:
        # What is guided, or guessed, depends on this token; the others' next step begins before this one is known.
        waiting = [job for job in ready if job.waits]
        for job in waiting:
            with self._failing([job]):
                job.tell()
        self._advance([job for job in ready if job.goes_on()])
        for job in ready:
            if job not in waiting and not job.ended:
                with self._failing([job]):
                    job.tell()
            if not job.ended:
                job.turn()

    def _advance(self, jobs: Sequence[Job]) -> None:
        """Draw the next token of each, lazily, unless more than one was computed."""
        model = self._model
        if model is None:
            return
        groups: dict[tuple[Regime, str | None], list[Job]] = {}
        most = max(GUESSED // max(len(jobs), 1), 1)
        for job in jobs:
            with self._failing([job]):
                if not job.own_step():
                    job.propose(most)
                    groups.setdefault((job.following, job.plan.adapter), []).append(job)
        for (regime, _), group in groups.items():
            computing = [job.computing for job in group]
            counts = [tokens.size for tokens in computing]
            if self._exact or len(group) == 1 or sum(counts) < model.batch_from:
                for job, tokens, count in zip(group, computing, counts, strict=True):
                    with self._failing([job]):
                        job.settle(model.together(tokens, [job.cache], regime, [count]))
                continue
            with self._failing(group):
                logits = model.together(mx.concatenate(computing), [job.cache for job in group], regime, counts)
                for job, tokens in zip(group, mx.split(logits, list(accumulate(counts))[:-1]), strict=True):
                    with self._failing([job]):
                        job.settle(tokens)
        with self._failing(jobs):
            mx.async_eval([job.drawing() for job in jobs if not job.ended])

    @contextmanager
    def _failing(self, jobs: Sequence[Job]) -> Iterator[None]:
        """What goes wrong is told to those whom it concerns."""
        try:
            yield
        except BaseException as error:  # noqa: BLE001 - raised again in the threads that asked
            for job in jobs:
                if not job.ended or job.outbox.cancelled:
                    job.fail(self._translated(error))


def _has_room(job: Job) -> bool:
    """Whether something can be done for a job: nobody holds it up."""
    return job.outbox.cancelled or not (job.stalled or (job.prefilled and job.outbox.full))
