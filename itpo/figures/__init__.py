"""Figures: one function a figure, data in, matplotlib ``Figure`` out, no computation; and how they are published."""
