"""The only event loop: one front end is one file or folder."""
