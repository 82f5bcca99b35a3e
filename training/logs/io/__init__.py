"""Files and databases, read a partition at a time, with every record that could not be read accounted for."""
