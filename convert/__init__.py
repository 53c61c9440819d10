"""Other data sets as a Cityscapes tree: one module for each format, one engine, tables of names."""
