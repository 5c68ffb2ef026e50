"""Simulated service desks: real HTTP, each platform's own shapes and refusals, and webhooks that can go astray."""
