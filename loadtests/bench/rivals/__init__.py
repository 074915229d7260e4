"""The rivals: contract 000's `POST /api/cart`, as others would build it."""
