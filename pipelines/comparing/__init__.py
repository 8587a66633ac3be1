"""Many runs next to each other, read from their output folders alone (`obliq-report OUTPUTS...`).

discovery  which folders are runs, and what became of each
settings   what a run was started with, from its configuration
differing  the settings that tell runs apart
facets     the runs that may be compared with each other, and the series among them
plots      the figures of a facet, drawn with `markers`
svg_files  the same figures as SVG files (`obliq-report OUTPUTS... --plots FOLDER`)
cells      a run's row of the table, as text and as the number that sorts it
layers     the layers of all runs, for the comparison of two on the page
page       the HTML page, one file that opens without a network
files      Markdown, LaTeX and CSV for papers and spreadsheets
table      one table of all runs, for the terminal and for Markdown (`obliq table`)

Nothing is dropped: a run that failed, did not finish, cannot be read, or repeats another one's
settings is shown as such.
"""
