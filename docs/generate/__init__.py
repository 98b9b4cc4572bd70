"""Builds the documents with MkDocs.

A page is Markdown in which ``{{ ... }}`` stands for what the code says (Jinja): a table that a module here makes of
types or routes, or one constant by `pages.value`. So the reference is made anew with every build and cannot be old.
"""
