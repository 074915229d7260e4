"""The benchmark: cartsvc beside other ways to build the same, under the same load."""
