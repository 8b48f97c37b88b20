"""Pictures, label maps, classes, data sets and rendered scenes."""
