"""Service desks: one port, an adapter for each platform, and a desk in memory for simulations."""
