"""Savings: the event log of every dollar, and the reporting tables that are projected from it."""
