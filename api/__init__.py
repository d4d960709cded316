"""HTTP: routes, problem details, live stream."""
