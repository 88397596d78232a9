"""One daemon process: a worker that the supervisor starts. The composition root of everything below it."""
