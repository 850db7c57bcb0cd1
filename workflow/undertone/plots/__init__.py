"""Figures of finished results; imports no torch."""
