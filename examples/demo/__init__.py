"""The demo: from text to an evaluated model on two CPU cores, with the commands a real run uses."""
