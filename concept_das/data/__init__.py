"""Quadruples, chat formats and what reads and writes them."""
