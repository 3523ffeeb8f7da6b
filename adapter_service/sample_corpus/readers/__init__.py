"""One reader per format that the sample corpus is assembled from; each yields raw pairs."""
