"""Orchid: convolutions whose filters are made from the sequence itself."""
