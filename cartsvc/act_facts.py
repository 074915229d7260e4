"""What the audit trail keeps of an act's subject, in short."""

from collections.abc import Sequence

from cartsvc.model import Cart, Paused, StockLevel
from cartsvc.money import text
from cartsvc.repair import Repaired
from cartsvc.stock import Recorded
from cartsvc.trail import Facts
from cartsvc.verify import Verdict


def of_stock(found: Recorded) -> Facts:
    level = found.level
    counted = {} if level is None else {"free": level.free, "held": level.held, "sold": level.sold}
    return {**counted, "received": found.received}


def of_watched(levels: Sequence[StockLevel]) -> Facts:
    return {"watched": [level.sku for level in levels]}


def of_sale(found: Paused | None) -> Facts:
    return {"paused": False} if found is None else {"paused": True, "reason": found.reason}


def of_cart(cart: Cart) -> Facts:
    held = {line.sku: line.quantity for line in cart.lines if line.held_until_ms is not None}
    return {"id": cart.id, "version": cart.version, "status": cart.status, "held": held}


def of_price(price_minor: int) -> Facts:
    return {"price": text(price_minor)}


def of_verdict(verdict: Verdict, repaired: Repaired | None) -> Facts:
    told: Facts = {"looked_at": verdict.looked_at}
    if repaired is None:
        return {**told, "wrong": len(verdict.findings)}
    return {**told, "mended": len(repaired.mended), "wrong": len(repaired.left)}
