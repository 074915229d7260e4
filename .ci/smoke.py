"""`make run` as a newcomer runs it: start, paste the curl line, Ctrl-C; twice, on one set of data.

Fails unless the second run's cart has the units of the first.
"""

import json
import os
import shlex
import signal
import subprocess
import sys

READY = "try: "


def units_after_an_add() -> int:
    with subprocess.Popen(
        ["make", "run"], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        assert run.stdout is not None
        curl = next((line for line in run.stdout if line.startswith(READY)), None)
        if curl is None:
            sys.exit(f"make run ended with status {run.wait()}")
        answer = subprocess.check_output(shlex.split(curl.removeprefix(READY)))
        # What a terminal does at Ctrl-C: the signal goes to everything that it started.
        os.killpg(run.pid, signal.SIGINT)
        if not run.stdout.read().endswith("stopped\n"):
            sys.exit("make run did not stop in order at Ctrl-C")
    return int(json.loads(answer)["data"]["cart"]["total_items"])


first, second = units_after_an_add(), units_after_an_add()
print(f"make run: {first} units in the cart, after a restart and an add {second}")
sys.exit(0 if second == first + 2 else 1)
