"""Auto-tuning: a search for the settings that buy privacy without collapse, and its own price."""
