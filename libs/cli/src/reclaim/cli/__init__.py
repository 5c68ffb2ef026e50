"""The `reclaim` command: runs the services, talks to their APIs, and shows the whole product in a demo."""
