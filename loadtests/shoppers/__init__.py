"""Who comes to a sale, as Locust's users."""
