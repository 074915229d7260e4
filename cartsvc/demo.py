"""The demo catalogue that `cartsvc dev` fills an empty database with."""

from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("demo.ndjson")

FIRST_PRODUCT: Final = "507f1f77bcf86cd799439011"
"""An ObjectId of the demo catalogue, in stock; the example of contract 000."""
