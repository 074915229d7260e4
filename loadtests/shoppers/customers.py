"""Shoppers with a token, and who works for the shop: contracts 001, 003 and 004."""

import random
import uuid
from typing import Any

from locust import between, task

from cartsvc.model import Owner
from loadtests import dialects
from loadtests.basket import Basket
from loadtests.dialects import Request, Sign
from loadtests.shoppers.guests import StoreGuest
from loadtests.shoppers.shopper import SETTINGS, SIGN, Shopper, cannot_come, choice_of


def _no_token(subject: str, kind: str) -> dict[str, str]:
    raise AssertionError(f"a {kind} came without a secret to sign for {subject}")


_sign: Sign = SIGN or _no_token


class LateLogin(Shopper):
    """Shops as a guest, remembers the account, and logs in: the guest's cart joins (001)."""

    abstract = cannot_come("001", needs_token=True)
    weight = 8
    contract = "001"
    dialect = dialects.member(SETTINGS.tenant, _sign)
    guest = dialects.guest(SETTINGS.tenant)
    choice = choice_of(contract)

    @task
    def shops(self) -> None:
        self.arrive()
        if random.random() < 0.5:
            self.add_other()
            self.wait()
        session = self.guest.owner(uuid.uuid4().hex)
        basket = self.shops_as_guest(session)
        self.wait()
        if self.logs_in(session, basket):
            self.wait()
            self.add_other()

    def shops_as_guest(self, session: Owner) -> Basket:
        """What the guest's cart has."""
        customer, basket = self.basket, Basket()
        self.basket = basket
        for sku in (random.choice(self.choice.others), self.choice.hot):
            request = self.guest.add(session, sku, 1)
            self.ask("add", request, self.guest_shows(basket, sku))
            self.wait()
        if self.basket is basket:
            self.basket = customer
        return basket

    def guest_shows(self, basket: Basket, sku: str) -> Any:
        def check(body: Any) -> str:
            basket.put(sku, 1)
            return basket.problem(self.guest.seen(body).lines)

        return check

    def logs_in(self, session: Owner, guest: Basket) -> bool:
        """Ask for the cart, as the customer and with the guest's session."""
        request = self.dialect.read(self.owner)
        both = request._replace(headers={**request.headers, "x-session-id": session.id})

        def check(body: Any) -> str:
            self.basket.join(guest)
            for one in body["merge"]["clamped"] if guest.lines else ():
                variant = one["productVariantId"]
                sku = f"{one['productId']}/{variant}" if variant else one["productId"]
                self.basket.take(sku, one["requested"] - one["merged"])
            return self.compare(self.dialect.seen(body))

        return self.ask("login", both, check)


class RegularCustomer(StoreGuest):
    """Always logged in: contract 003, whose products are numbers, some of them in variations."""

    abstract = cannot_come("003", needs_token=True)
    weight = 6
    contract = "003"
    dialect = dialects.customer(_sign)
    choice = choice_of(contract)


class RecordsShopper(Shopper):
    """Of contract 004, whose owners and their tokens are those of any customer."""

    abstract = True
    contract = "004"
    dialect = dialects.customer(_sign)
    choice = choice_of(contract)


class Buyer(RecordsShopper):
    """Fills a cart, the bargain first, and pays: a checkout that converts."""

    abstract = cannot_come("004", needs_token=True)
    weight = 12
    wait_time = between(0.5, 1.5)

    @task
    def buys(self) -> None:
        self.arrive()
        if not self.opens_cart():
            return
        for sku in (self.choice.hot, random.choice(self.choice.others)):
            self.puts(sku)
            self.wait()
        if self.basket.lines and not self.pays() and self.basket.lines:
            # What was not to be had any more is told, and the rest is bought.
            self.looks()
            self.pays()

    @property
    def token(self) -> dict[str, str]:
        return _sign(self.owner.id, "customer")

    def opens_cart(self) -> bool:
        def check(body: Any) -> str:
            self.cart_id = int(body["id"])
            return self.compare(dialects.seen_by_admin(body))

        return self.ask("open", Request("POST", "/api/carts", self.token, {}), check)

    def puts(self, sku: str) -> None:
        item = {"cartId": self.cart_id, "productId": sku, "quantity": 1}

        def check(body: Any) -> str:
            self.basket.put(sku, 1)
            shown = {str(body["productId"]): body["quantity"]}
            return self.basket.problem(shown, is_whole=False)

        self.ask("add", Request("POST", "/api/cart-items", self.token, item), check)

    def looks(self) -> None:
        request = Request("GET", f"/api/carts/{self.cart_id}", self.token)
        self.ask("read", request, lambda body: self.compare(dialects.seen_by_admin(body)))

    def pays(self) -> bool:
        def check(body: Any) -> str:
            if body["status"] != "CONVERTED":
                return f"a checkout that left the cart {body['status']}"
            return self.compare(dialects.seen_by_admin(body))

        return self.ask("checkout", dialects.convert(self.cart_id, self.token), check)


class Clerk(RecordsShopper):
    """Works for the shop: looks through carts, and at one of them."""

    abstract = cannot_come("004", needs_token=True)
    weight = 1
    wait_time = between(2, 5)
    page = 20

    @task
    def looks_through_carts(self) -> None:
        admin, carts = _sign("1", "user"), []

        def check(body: Any) -> str:
            carts.extend(body)
            return f"{len(body)} carts on a page of {self.page}" if len(body) > self.page else ""

        self.ask("list", Request("GET", f"/api/carts?size={self.page}", admin), check)
        if carts:
            one = random.choice(carts)["id"]
            self.ask("look at one", Request("GET", f"/api/carts/{one}", admin))
