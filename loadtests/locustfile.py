"""Shoppers of a flash sale. Against a running service, with Locust's web page:

    locust -f loadtests/locustfile.py

CARTSVC_URL names the service; CARTSVC_LOAD_PRODUCTS its products (ObjectIds, by commas), the
first of them the one that everybody wants.
"""

import os
import random

import orjson
from locust import FastHttpUser, between, events, task
from locust.env import Environment

DEMO = [f"507f1f77bcf86cd7994390{end}" for end in ("16", "11", "12", "13", "14", "15", "1e", "20")]
PRODUCTS = os.environ.get("CARTSVC_LOAD_PRODUCTS", ",".join(DEMO)).split(",")
HOT, *OTHERS = PRODUCTS

ADD = "/api/cart"
REFUSALS = {"insufficient_stock": "add (sold out)", "buyer_limit": "add (no more a buyer)"}


@events.quitting.add_listener
def _fail_without_requests(environment: Environment, **_: object) -> None:
    if environment.stats.total.num_requests == 0:
        environment.process_exit_code = 1


class FlashSaleShopper(FastHttpUser):
    """Comes for the one hot product, takes a few other things along, and comes back for more."""

    host = os.environ.get("CARTSVC_URL", "http://127.0.0.1:8000")
    wait_time = between(0.05, 0.5)

    def on_start(self) -> None:
        self.session_id: str | None = None

    @task(3)
    def grab_the_hot_product(self) -> None:
        self.add(HOT, quantity=1)

    @task(5)
    def take_something_along(self) -> None:
        self.add(random.choice(OTHERS), quantity=random.randint(1, 3))

    @task(1)
    def start_over(self) -> None:
        self.session_id = None

    def add(self, product_id: str, quantity: int) -> None:
        request: dict[str, object] = {"product_id": product_id, "quantity": quantity}
        if self.session_id:
            request["session_id"] = self.session_id
        with self.client.post(
            ADD, data=orjson.dumps(request).decode(), name="add", catch_response=True
        ) as answer:
            content = orjson.loads(answer.content) if answer.content else {}
            if answer.status_code == 200:
                self.session_id = content["data"]["session_id"]
                answer.success()
            elif content.get("error", {}).get("code") in REFUSALS:
                # What most shoppers hear in a sale: an answer, not a failure.
                answer.request_meta["name"] = REFUSALS[content["error"]["code"]]
                answer.success()
            else:
                answer.failure(f"{answer.status_code}: {content.get('message')}")
