"""Redis for layers that work across processes: its address, connections, and the limits of a fleet.

The only part that imports redis. `server` is the address, `session` one connection, `link` keeps a session
up in each event loop, and `limits` has what `RateLimit` and `RetryBudget` share.
"""
