"""What Reclaim reads from, and does to, the systems that hold the seats; one module per system."""
