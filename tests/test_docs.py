"""What the documents say is held to what is there."""

import re
from dataclasses import fields
from pathlib import Path

from cartsvc.contracts import session
from cartsvc.errors import (
    BelowMinimum,
    BuyerLimit,
    CartFull,
    CartSpent,
    InactiveProduct,
    Invalid,
    NoLine,
    NotWarm,
    OrderLimit,
    OutOfStock,
    Overloaded,
    SaleEnded,
    SaleNotStarted,
    SalePaused,
    TooManyGuests,
)
from cartsvc.http import BodyTooLarge
from cartsvc.settings import Settings, variable

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_readme_lists_every_setting() -> None:
    listed = re.findall(r"^\| `(CARTSVC_\w+)` \| (?:`(.*)`)? ?\| (.+) \|$", README, re.MULTILINE)
    assert listed == [
        (variable(setting.name), str(setting.default), setting.metadata["doc"])
        for setting in fields(Settings)
    ]


def test_readme_lists_every_error_code() -> None:
    errors = (
        Invalid("product_id", ""),
        Invalid("quantity", ""),
        Invalid("session_id", ""),
        Invalid("", "is not valid JSON"),
        OutOfStock("lamp", 1, 0),
        CartFull(50),
        CartSpent(4095),
        OrderLimit("lamp", 5, 0),
        BuyerLimit("lamp", 5, 0),
        BelowMinimum("lamp", 2),
        SaleNotStarted("lamp", 1, 1),
        SaleEnded("lamp", 1),
        NoLine("lamp"),
        InactiveProduct("lamp"),
        BodyTooLarge(1),
        TooManyGuests(5),
        NotWarm(),
        Overloaded("memory"),
        SalePaused("stocktaking"),
    )
    for error in errors:
        answer = session.refuse(error, {})
        [code] = re.findall(rb'"code":"(\w+)"', answer.body)
        assert re.search(rf"^\| {answer.status} \|.*`{code.decode()}`", README, re.MULTILINE), code


def test_architecture_names_every_module() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    rooms = text[text.index("## The rooms") : text.index("## An add")]
    for file in (ROOT / "cartsvc").iterdir():
        if file.suffix == ".py" and file.stem != "__init__":
            assert f"`{file.stem}`" in rooms, file.stem
