"""One module per group of routes, each with a function that builds its router."""
