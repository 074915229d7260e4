"""Load shapes for Locust: a whole sale, or its opening alone."""

from collections.abc import Sequence
from typing import ClassVar

from locust import LoadTestShape

from loadtests import options, phases
from loadtests.phases import Phase

OPTIONS = options.read()

_ALL_COME_IN_S = 3


class Phased(LoadTestShape):
    """As many shoppers as the phases say, of CARTSVC_LOAD_USERS in CARTSVC_LOAD_SECONDS."""

    abstract = True
    phases: ClassVar[Sequence[Phase]]

    def begins(self) -> dict[str, float]:
        return phases.begins(self.phases, OPTIONS.seconds)

    def tick(self) -> tuple[int, float] | None:
        users = phases.users_at(
            self.phases, self.get_run_time(), seconds=OPTIONS.seconds, users=OPTIONS.users
        )
        return None if users is None else (users, OPTIONS.users / _ALL_COME_IN_S)


class Sale(Phased):
    """Quiet, the minute before, the opening with ten times as many shoppers, the tail."""

    abstract = OPTIONS.shape == options.NO_SHAPE
    phases = phases.SALE


class Opening(Phased):
    """The opening, without a quiet day before it, and the tail."""

    abstract = OPTIONS.shape == options.NO_SHAPE
    phases = phases.OPENING
