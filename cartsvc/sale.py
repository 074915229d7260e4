"""Pausing the sale of a tenant: while it is paused, nothing more comes into carts.

The script of each change looks for the pause itself, so once one is there, nobody is let through.
All that takes units out of carts, or sells them, goes on.
"""

import msgspec

from cartsvc.errors import Invalid
from cartsvc.keys import Bucket
from cartsvc.model import MAX_REASON
from cartsvc.model import Paused as Paused
from cartsvc.scripts import Runner


class Sale:
    """Every method raises as `Runner.run` does."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner

    async def pause(self, bucket: Bucket, reason: str, by: str) -> Paused | None:
        """Pause the sale, or give a pause another reason; returns the pause that there was.

        Raises:
            Invalid: `reason` or `by` is too long, or can't be printed.
            NotWarm: Redis has nothing of the bucket.
        """
        for field, text in (("reason", reason), ("by", by)):
            if len(text) > MAX_REASON or not text.isprintable():
                raise Invalid(field, f"must be at most {MAX_REASON} characters that can be printed")
        pause = msgspec.json.encode(Paused(reason, by, await self.runner.now_ms()))
        return await self._change("sale_pause", [bucket.seq, bucket.paused], [pause])

    async def resume(self, bucket: Bucket) -> Paused | None:
        """Let the sale go on; returns the pause that there was."""
        return await self._change("sale_resume", [bucket.paused], [])

    async def state(self, bucket: Bucket) -> Paused | None:
        """The pause, or None while the sale goes on."""
        found = await self.runner.value(bucket.paused)
        return None if found is None else _paused(found)

    async def _change(self, script: str, keys: list[str], arguments: list[bytes]) -> Paused | None:
        """What was there before a script, which is on the disk if that is to be waited for."""
        before = await self.runner.run(script, keys, arguments)
        await self.runner.synced()
        return _paused(before[0]) if before else None


def _paused(written: bytes) -> Paused:
    return Paused.of(written.decode(errors="backslashreplace"))
