"""What an earlier release did, written down, so that a rebuilt one can be held against it."""
