"""Models behind HTTP: the engine, which is public Python, and the routes on top of it."""
