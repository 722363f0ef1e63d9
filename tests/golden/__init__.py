"""A record of what an earlier release did, against which a rebuilt one can be held."""
