"""Comparison of runs, read from their output folders alone (`obliq-report OUTPUTS...`).

discovery  which folders are runs, and the state of each
settings   the settings of a run, from its configuration
differing  the settings in which runs differ
facets     groups of comparable runs, and the series in them
plots      the figures of a facet, drawn with `markers`
svg_files  the same figures as SVG files (`obliq-report OUTPUTS... --plots FOLDER`)
cells      a run's table row: text and sort key of every cell
layers     the layers of all runs, for the page's comparison of two runs
page       the HTML page, a single file that works offline
files      Markdown, LaTeX and CSV for papers and spreadsheets
table      one table of all runs, for the terminal or as Markdown (`obliq table`)
table_diff how the tables of a document differ from the runs

No run is dropped: those that failed, did not finish, cannot be read or repeat the settings of
another run are marked.
"""
