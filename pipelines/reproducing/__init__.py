"""A result made again from its own record, and compared with it.

record         what results.json says of how it was made
circumstances  what is not as it was then: code, packages, machine
figures        every number, then and now
"""
