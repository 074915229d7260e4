"""Shoppers without a token: contracts 000, 001 and 002."""

import random
import uuid
from typing import Any

from locust import between, task

from cartsvc.http import IDEMPOTENCY_KEY
from loadtests import dialects, outcomes
from loadtests.shoppers.shopper import SETTINGS, Check, Shopper, cannot_come, choice_of


class SessionShopper(Shopper):
    """Of contract 000."""

    abstract = True
    contract = "000"
    dialect = dialects.SESSION
    choice = choice_of(contract)


class Browser(SessionShopper):
    """Looks around, takes one or two things, thinks again, leaves."""

    abstract = cannot_come("000")
    weight = 20

    @task(4)
    def takes_something(self) -> None:
        if len(self.basket.lines) < 2:
            self.add_other()

    @task(3)
    def looks(self) -> None:
        self.look()

    @task(1)
    def thinks_again(self) -> None:
        self.change_mind()

    @task(1)
    def leaves(self) -> None:
        self.arrive()


class BargainHunter(SessionShopper):
    """Came for one thing, and asks for it until it is in the cart; and then once more."""

    abstract = cannot_come("000")
    weight = 30
    wait_time = between(0.2, 0.8)

    @task(5)
    def asks_for_it(self) -> None:
        self.add(self.choice.hot)

    @task(1)
    def looks_whether_it_is_there(self) -> None:
        self.look()

    @task(1)
    def gives_up(self) -> None:
        self.arrive()


class Bot(SessionShopper):
    """Hammers: each request for the one thing, each as somebody new, and never a pause."""

    abstract = cannot_come("000")
    weight = 2
    wait_time = between(0.01, 0.03)

    @task
    def grabs(self) -> None:
        self.arrive()
        self.add(self.choice.hot)


class DoubleTapper(SessionShopper):
    """Impatient: taps twice, and an app that knows its craft sends the same Idempotency-Key."""

    abstract = cannot_come("000")
    weight = 5

    @task(4)
    def taps_twice(self) -> None:
        sku = random.choice([self.choice.hot, *self.choice.others])
        request = self.dialect.add(self.owner, sku, 1)
        request = request._replace(headers={IDEMPOTENCY_KEY: str(uuid.uuid4())})
        self.judge_both(self.twice(request), self.shows(request, lambda: self.basket.put(sku, 1)))
        # Two answers may be alike, and both be wrong.
        self.look()

    @task(1)
    def leaves(self) -> None:
        self.arrive()

    def judge_both(self, answers: tuple[Any, Any], check: Check) -> None:
        """One application, one answer; but a request that was not decided may be the next time."""
        first, second = sorted(answers, key=lambda one: not outcomes.is_decided(one.status_code))
        seen = (first.status_code, first.content)
        is_granted = self.judge("add", first, check)
        if not outcomes.is_decided(second.status_code):
            self.judge("add again", second)
            return
        with second:
            second.request_meta["name"] = f"{self.contract} add again"
            if (second.status_code, second.content) == seen:
                second.success()
            else:
                second.failure("the same request with the same key was answered in two ways")
                is_granted = False
        if not is_granted and outcomes.granted(seen[0]):
            self.arrive()


class StoreGuest(Shopper):
    """A guest of a store, contract 001: a bit of everything."""

    abstract = cannot_come("001")
    weight = 8
    contract = "001"
    dialect = dialects.guest(SETTINGS.tenant)
    choice = choice_of(contract)

    @task(3)
    def takes_something(self) -> None:
        self.add_other()

    @task(3)
    def asks_for_the_bargain(self) -> None:
        self.add(self.choice.hot)

    @task(2)
    def thinks_again(self) -> None:
        self.change_mind()

    @task(2)
    def looks(self) -> None:
        self.look()

    @task(1)
    def leaves(self) -> None:
        self.arrive()


class AppShopper(StoreGuest):
    """The same in an app, which knows its device: contract 002."""

    abstract = cannot_come("002")
    weight = 8
    contract = "002"
    dialect = dialects.DEVICE
    choice = choice_of(contract)
