"""The `zagreus` command: one file per stage, registered in `app`."""
