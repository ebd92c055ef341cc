"""The web service: REST and a page in the browser, safe by default. Needs the extra ``web``."""
