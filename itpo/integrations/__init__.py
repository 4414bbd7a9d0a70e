"""ITPO inside other people's training engines: what they have in common, and a module for each engine."""
