"""What all shoppers have in common: one owner, a basket, and an eye for wrong answers."""

import random
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import gevent
import orjson
from locust import FastHttpUser, between

from cartsvc import settings
from cartsvc.model import Owner
from loadtests import options, outcomes, products
from loadtests.basket import Basket
from loadtests.dialects import Dialect, Request, Seen, Sign, signer
from loadtests.products import Choice

ADDRESSES = options.addresses()
SETTINGS = settings.read(ADDRESSES)
SKUS = options.read().products or products.of_demo()

SIGN: Sign | None = None
"""Signs tokens; None without a secret, and then nobody comes who needs one."""

if SETTINGS.jwt_secret:
    SIGN = signer(SETTINGS.jwt_secret, issuer=SETTINGS.jwt_issuer, audience=SETTINGS.jwt_audience)

Check = Callable[[Any], str]
"""What is wrong with the body of an answer; '' if nothing."""

_ALL_STATUSES = frozenset(range(100, 600))


def right(_: Any) -> str:
    """A check of what can't be wrong."""
    return ""


class Shopper(FastHttpUser):
    """Asks for one thing after the other, and knows what each answer has to show.

    `choice` are the products that `contract` can name; without any, such shoppers do not come.
    """

    abstract = True
    host = ADDRESSES["CARTSVC_URL"]
    wait_time = between(0.3, 1.2)
    contract: ClassVar[str]
    dialect: ClassVar[Dialect]
    choice: ClassVar[Choice]

    def on_start(self) -> None:
        # Locust would make an exception, with the whole conversation in it, of each refusal.
        client: Any = self.client.client
        client.valid_response_codes = _ALL_STATUSES
        # To a service behind a proxy, each shopper is somebody else.
        self.headers = {"X-Forwarded-For": f"10.{'.'.join(map(str, random.randbytes(3)))}"}
        self.arrive()

    def arrive(self) -> None:
        """Begin anew, as an owner who has no cart."""
        self.owner: Owner = self.dialect.owner(uuid.uuid4().hex)
        self.basket = Basket()
        self.items: dict[str, str] = {}

    def add(self, sku: str, units: int = 1) -> bool:
        """Whether it was granted."""
        request = self.dialect.add(self.owner, sku, units)
        return self.ask("add", request, self.shows(request, partial(self.basket.put, sku, units)))

    def add_other(self) -> bool:
        return self.add(random.choice(self.choice.others), random.randint(1, 3))

    def look(self) -> bool:
        request = self.dialect.read(self.owner)
        return self.ask("read", request, self.shows(request))

    def change_mind(self) -> bool:
        """Set a line's quantity or remove it, but of nothing that may leave the cart by itself."""
        skus = [sku for sku in self.basket.lines if sku != self.choice.hot]
        if not skus:
            return False
        sku, units = random.choice(skus), random.randint(0, 3)
        item = self.items.get(sku, "")
        change = partial(self.basket.set, sku, units)
        if units:
            request = self.dialect.set(self.owner, sku, item, units)
            return self.ask("set", request, self.shows(request, change))
        request = self.dialect.remove(self.owner, sku, item)
        return self.ask("remove", request, self.shows(request, change))

    def shows(self, request: Request, change: Callable[[], None] | None = None) -> Check:
        """Makes the change to the basket, and compares that with the cart in the answer."""

        def check(body: Any) -> str:
            if change is not None:
                change()
            return self.compare(self.dialect.seen(body), is_whole=request.is_whole)

        return check

    def compare(self, seen: Seen, *, is_whole: bool = True) -> str:
        self.items |= seen.items
        return self.basket.problem(seen.lines, is_whole=is_whole)

    def ask(self, what: str, request: Request, check: Check = right) -> bool:
        """Whether it was granted, with a right answer."""
        return self.judge(what, self.send(request), check)

    def send(self, request: Request) -> Any:
        """Locust's own answer, which is not counted before it is judged."""
        return self.client.request(
            request.method,
            request.path,
            headers={**self.headers, **request.headers},
            data=None if request.content is None else orjson.dumps(request.content).decode(),
            catch_response=True,
        )

    def judge(self, what: str, answer: Any, check: Check = right) -> bool:
        """Count an answer as granted, refused or a failure, after which the shopper begins anew."""
        what, text = f"{self.contract} {what}", (answer.content or b"").decode(errors="replace")
        refused = outcomes.reason(answer.status_code, text)
        with answer:
            answer.request_meta["name"] = outcomes.name(what, refused)
            problem = "" if refused else self.problem(answer, text, check)
            if problem:
                answer.failure(problem)
            else:
                answer.success()
        if problem:
            self.arrive()
        if refused == outcomes.LINES_LEFT:
            self.basket.told(_notice(answer))
        return not (problem or refused)

    def problem(self, answer: Any, text: str, check: Check) -> str:
        if answer.status_code == 0:
            return f"no answer: {answer.error!r}"
        if not outcomes.granted(answer.status_code):
            return f"{answer.status_code}: {text[:200]}"
        self.basket.told(_notice(answer))
        try:
            return check(orjson.loads(text) if text else None)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            return f"not what the contract answers: {error!r}"

    def twice(self, request: Request) -> tuple[Any, Any]:
        """The answers to a request that is sent twice at the same time."""
        first, second = (gevent.spawn(self.send, request) for _ in range(2))
        gevent.joinall([first, second])
        return first.get(), second.get()


def _notice(answer: Any) -> str:
    return str((answer.headers or {}).get("x-cart-notice") or "")


def choice_of(contract: str) -> Choice:
    """What shoppers of a contract choose from; of nothing, nothing."""
    return products.choice(contract, SKUS) or Choice("", ())


def cannot_come(contract: str, *, needs_token: bool = False) -> bool:
    """Whether there is nothing that such a shopper can ask for, or no token for it."""
    return not choice_of(contract).hot or (needs_token and SIGN is None)
