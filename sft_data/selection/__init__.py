"""The best rows under a budget: by score alone, or spread over the data."""
