"""Predictions where people look at images: a web service with its page, the MONAI Label app."""
