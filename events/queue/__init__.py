"""The facts of a queue of jobs, and what follows from them."""
