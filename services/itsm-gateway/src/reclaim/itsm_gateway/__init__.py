"""The ITSM gateway: asks for decisions, and hears them, through the service desk that a team already uses."""
