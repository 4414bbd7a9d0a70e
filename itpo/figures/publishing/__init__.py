"""Figures and tables with their data beside them, and the gallery that shows them all."""
