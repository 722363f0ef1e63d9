"""How fast training and steered generation are, against plain pyvene on the same rows."""
