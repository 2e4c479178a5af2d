"""What a protection cost and what it bought, from the results of a sweep alone."""
