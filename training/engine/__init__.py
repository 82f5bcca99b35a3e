"""Where the parts of a stage run: side by side in this process, or as tasks of a cluster. The stages see no difference."""
