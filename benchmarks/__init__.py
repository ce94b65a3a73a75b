"""The commands that our figures were measured with; a package, as some libraries install one of this name."""
