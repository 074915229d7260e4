"""A flash sale. Against a running service, with Locust's web page:

    locust -f loadtests/locustfile.py

Nothing has to be set against `make run`; docs/rehearsing.md has what can be.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from locust import events, runners
from locust.env import Environment

from cartsvc.keys import Bucket
from cartsvc.settings import SettingError
from loadtests import options, products, sampling

try:
    OPTIONS = options.read()
    from loadtests.shapes import Opening, Sale
    from loadtests.shoppers.customers import Buyer, Clerk, LateLogin, RegularCustomer
    from loadtests.shoppers.guests import (
        AppShopper,
        BargainHunter,
        Bot,
        Browser,
        DoubleTapper,
        StoreGuest,
    )
    from loadtests.shoppers.shopper import SETTINGS, SIGN, SKUS
except SettingError as error:
    sys.exit(str(error))

__all__ = [
    "AppShopper",
    "BargainHunter",
    "Bot",
    "Browser",
    "Buyer",
    "Clerk",
    "DoubleTapper",
    "LateLogin",
    "Opening",
    "RegularCustomer",
    "Sale",
    "StoreGuest",
]

# Every three seconds, in a sale of a minute, is no curve.
runners.WORKER_REPORT_INTERVAL = 1.0

# Seconds of silence after which a process counts as lost: one that shares its processors with the
# service is late by more than the three that Locust allows.
runners.HEARTBEAT_LIVENESS = 20

if SIGN is None:
    print(options.WITHOUT_TOKENS, file=sys.stderr)


@events.init_command_line_parser.add_listener
def _choose(parser: argparse.ArgumentParser) -> None:
    # The page lets shoppers and shape be picked; who leaves is let finish what was asked for.
    parser.set_defaults(class_picker=True, stop_timeout=5)


@events.init.add_listener
def _shape(environment: Environment, **_: object) -> None:
    shape = (environment.available_shape_classes or {}).get(OPTIONS.shape)
    if shape is not None:
        shape.runner = environment.runner
        environment.shape_class = shape


@events.init.add_listener
def _watch(environment: Environment, **_: object) -> None:
    if OPTIONS.samples and not isinstance(environment.runner, runners.WorkerRunner):
        bucket, hot = Bucket(SETTINGS.tenant), products.hot(SKUS)
        sampler = sampling.Sampler(environment, SETTINGS.redis_url, bucket, hot)
        sampling.watch(environment, Path(OPTIONS.samples), sampler)


@events.quitting.add_listener
def _fail_without_requests(environment: Any, **_: object) -> None:
    is_worker = isinstance(environment.runner, runners.WorkerRunner)
    if environment.stats.total.num_requests == 0 and not is_worker:
        environment.process_exit_code = 1
