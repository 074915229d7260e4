"""A Redis-backed cart cache for flash sales, written behind to PostgreSQL."""

__version__ = "0.1.0"
