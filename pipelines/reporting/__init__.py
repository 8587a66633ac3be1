"""What a person reads after a run, all from one results dict (`results.json`).

wording     how each figure is put into words, so that every place says it alike
plots       the figures; sensitivity_plots those of sensitivity
canvas      their style, and how they become SVG, for files and the page, or pixels for tracking
html        report.html, one file that opens without a network
layers_csv  layers.csv
summary     the table at the end of a run in the terminal

Missing values never stop a report: they read "–".
"""
