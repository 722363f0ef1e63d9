"""Rules that tell refusals and hidden goals from text."""
