"""Slurm: fill the templates from a configuration and a site, estimate, submit."""
