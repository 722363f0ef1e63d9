"""What the commands of the command line do; each is a plain function."""
