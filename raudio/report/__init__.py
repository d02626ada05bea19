"""What a run says of itself: tables for the terminal, one HTML page, a summary in Markdown.

`run` reads a run's files, `analysis` derives figures from its records, `svg` draws, `plots` are the
page's plots, `sections` its parts, `page` puts them together.
"""
