"""Drawings: data frames and numbers in, matplotlib figures out."""
