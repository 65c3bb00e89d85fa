"""Experiments that show what training does, each with a verdict computed from its numbers."""
