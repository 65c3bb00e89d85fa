"""Planted faults: small trainings on real images that each have one fault, and healthy ones."""
