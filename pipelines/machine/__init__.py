"""The machine of a run: devices, processes, threads, memory, disk and screen.

Nothing here depends on what is computed.
"""
