"""The documents: pages in Markdown, and `docs.generate`, which builds the site of them and of the code."""
