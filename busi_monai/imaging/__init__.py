"""Plain functions on arrays, by NumPy and OpenCV: neither torch nor MONAI is imported here."""
