"""Reports of a run, all from its results dict (`results.json`).

formatting    figures as text, the same in every report
results_file  reading and checking results.json
plots         the figures of a run; others are in sensitivity_plots, mixed_plots and training_plot
canvas        style of the figures, and their output as SVG or pixels
html          report.html, a single file that works offline
templates     loading of the HTML templates
layers_csv    layers.csv
summary       the summary table in the terminal

Missing values never stop a report: they are shown as "–".
"""
