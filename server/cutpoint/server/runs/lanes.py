"""Lanes: the threads in which models run.

There are as many as the hardware takes at a time, shared by all models. A lane takes the batch of the model whose turn it is,
runs it and has it answered, all in one thread: nothing is handed back.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("cutpoint.server")


class Run(Protocol):
    """A batch that was taken: what is left to do needs no lock."""

    def __call__(self, *, alone: bool) -> None:
        """Run and answer; `alone` says that nothing else ran or waited when it was taken."""
        ...


class Queue(Protocol):
    """Where lanes find work. All methods are called with the lanes' lock held."""

    def take(self, now_s: float) -> Run | None:
        """The next batch; None where there is none to run now."""
        ...

    def due_s(self) -> float | None:
        """When something will be there to take, in the clock's seconds: 0.0 for now; None where nothing waits."""
        ...

    def close(self) -> None:
        """Give nothing more, and have what waits refused."""
        ...


class Lanes:
    """Threads that run batches of several queues, in turns."""

    def __init__(self, count: int, clock: Callable[[], float]) -> None:
        """Start `count` threads; `clock` gives increasing seconds."""
        self.count = count
        self.changed = threading.Condition()  # its lock guards every queue
        self._clock = clock
        self._queues: deque[Queue] = deque()
        self._running = 0
        self._sleeping = 0
        self.closed = False
        self._threads = [threading.Thread(target=self._work, name=f"lane-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    @property
    def running(self) -> int:
        """Batches that run now."""
        return self._running

    def add(self, queue: Queue) -> None:
        """Take work from this queue too."""
        with self.changed:
            self._queues.append(queue)

    def remove(self, queue: Queue) -> None:
        """Forget a queue; what it has given is run to its end."""
        with self.changed:
            if queue in self._queues:
                self._queues.remove(queue)

    def others_wait(self, queue: Queue) -> bool:
        """Whether something is to be taken from another queue. To be called with the lock held."""
        return any(each is not queue and each.due_s() is not None for each in self._queues)

    def wake(self) -> None:
        """Something waits in a queue: wake a lane where one sleeps. To be called with the lock held."""
        if self._sleeping:
            self.changed.notify()

    def close(self, wait_s: float = 0.0) -> None:
        """Refuse what waits, take no more, and let what runs come to its end.

        Args:
            wait_s: how long to wait for that, in seconds. A process that ends while a thread is in a model is aborted.
        """
        with self.changed:
            queues, self.closed = list(self._queues), True
            self.changed.notify_all()
        for queue in queues:
            queue.close()
        until_s = time.monotonic() + wait_s
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _work(self) -> None:
        while (taken := self._take()) is not None:
            run, alone = taken
            try:
                run(alone=alone)
            except BaseException:  # a lane that dies is never replaced
                log.exception("a lane met an error that nobody foresaw")
            del run, taken
            with self.changed:
                self._running -= 1

    def _take(self) -> tuple[Run, bool] | None:
        with self.changed:
            while not self.closed:
                now_s = self._clock()
                for _ in range(len(self._queues)):
                    self._queues.rotate(-1)
                    run = self._queues[-1].take(now_s)
                    if run is not None:
                        self._running += 1
                        busy = self._running > 1 or any(queue.due_s() is not None for queue in self._queues)
                        return run, not busy
                due = [at for queue in self._queues if (at := queue.due_s()) is not None and at > now_s]
                self._sleeping += 1
                self.changed.wait(min(due) - now_s if due else None)
                self._sleeping -= 1
        return None
