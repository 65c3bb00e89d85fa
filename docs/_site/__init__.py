"""What the site is built with, besides Sphinx: conf.py names the extensions."""
