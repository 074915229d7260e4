"""The HTTP contracts: a module each, over the one store. None imports another."""
