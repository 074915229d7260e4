"""The shoppers of loadtests/locustfile.py, who hardly think, and leave at the first failure.

They leave, too, once each request that UNTIL names, by commas, was answered.
"""

import os
from typing import Any

import gevent
from locust import between, events

from loadtests.locustfile import *  # noqa: F403

for found in [*globals().values()]:
    if hasattr(found, "wait_time"):
        found.wait_time = between(0, 0.1)

# Locust takes whatever has a name here for a shopper.
del found


@events.init.add_listener
def _watch(environment: Any, **_: object) -> None:
    missing = set(filter(None, os.environ.get("UNTIL", "").split(",")))

    def note(name: str, exception: object, **_: object) -> None:
        was_waiting = bool(missing)
        missing.discard(name)
        if exception or (was_waiting and not missing):
            # Not by a shopper, which would end with it.
            gevent.spawn(environment.runner.quit)

    events.request.add_listener(note)
