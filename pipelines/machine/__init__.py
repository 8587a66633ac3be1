"""Where a run happens: devices, processes, threads, memory, disk and screen.

Nothing here knows what is computed.
"""
