"""The playground: a prompt answered unsteered and steered, side by side, in the browser."""
