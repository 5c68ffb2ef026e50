"""What every service stands on: contracts, bus, outbox and inbox, database, settings, clock, errors, host."""
