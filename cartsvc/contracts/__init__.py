"""HTTP contracts, one module each: `contract(core)` gives its operations and its words for errors;
None, if what it needs is not in the core.

A module here is found by being here. Beside it, `<name>.json` has the contract's own examples.
"""

import importlib
import pkgutil

from cartsvc.contract import Contract
from cartsvc.core import Core


def all_of(core: Core) -> list[Contract]:
    """Every contract there is, in the order of their titles; those of shops begin with a number."""
    modules = [
        importlib.import_module(f"{__name__}.{found.name}")
        for found in pkgutil.iter_modules(__path__)
    ]
    spoken = [found for module in modules if (found := module.contract(core)) is not None]
    return sorted(spoken, key=lambda one: one.title)
