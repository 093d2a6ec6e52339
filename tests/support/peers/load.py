"""Requests without an end through the gate: load.py URL STOP. Ends when the file STOP is there
and each worker has had an answer to a request of after that.

Prints "loaded" when all workers had an answer, then as JSON the start and end of each request that
was answered with 200 (CLOCK_MONOTONIC, seconds) and how many were not.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path

WORKERS = 8
stop = threading.Event()
lock = threading.Lock()
answered: list[tuple[float, float]] = []
failed = 0
begun = threading.Semaphore(0)


def work() -> None:
    global failed  # noqa: PLW0603  # a script
    first, last = True, False
    while not last:
        stopped, start = stop.is_set(), time.monotonic()
        try:
            with urllib.request.urlopen(sys.argv[1], timeout=10) as response:  # noqa: S310
                whole = response.read() == b"hello from the origin\n"
        except (OSError, HTTPException):
            whole = False
            time.sleep(0.01)
        last = stopped and whole
        with lock:
            if whole:
                answered.append((start, time.monotonic()))
            else:
                failed += 1
        if first and whole:
            begun.release()
            first = False


workers = [threading.Thread(target=work) for _ in range(WORKERS)]
for worker in workers:
    worker.start()
for _ in workers:
    begun.acquire()
print("loaded", flush=True)
while not Path(sys.argv[2]).exists():
    time.sleep(0.02)
stop.set()
for worker in workers:
    worker.join()
print(json.dumps({"answered": answered, "failed": failed}))
