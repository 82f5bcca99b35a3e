"""The pages that a bundle's figures are read on: one file each, with charts, and nothing fetched."""
