"""Figures: one function a figure, data in, matplotlib ``Figure`` out; no computation."""
