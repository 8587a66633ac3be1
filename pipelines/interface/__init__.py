"""The chain for Python programs: what `import obliq` offers.

quantize   a network in memory, on images in memory, through the stages of the command line
result     the quantized network, its layers as a table, and its file
loading    the quantized network of a file or of a run
export     files for other programs; `command` is `obliq export`
evaluate   metrics, and the distance from the float network
"""
