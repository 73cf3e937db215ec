"""The store interface and its leaves, one leaf a file or folder."""
