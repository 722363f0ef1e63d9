"""The speed of training and steered generation, against plain pyvene on the same rows."""
