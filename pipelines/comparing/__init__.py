"""Many runs beside each other, read from their output folders alone (`obliq-report OUTPUTS...`).

finding    which folders are runs, and what became of each
asked      what a run was asked to do, from its configuration
facets     the runs that may be compared with each other, and the series among them
plots      the figures of a facet, drawn with `marks`
cells      a run's row of the table, as text and as the number that sorts it
layers     the layers of all runs, for the comparison of two on the page
page       the HTML page, one file that opens without a network
files      Markdown, LaTeX and CSV for papers and spreadsheets

Nothing is dropped: a run that failed, was not finished, cannot be read, or repeats another one's
settings is shown as such.
"""
