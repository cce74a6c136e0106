"""What runs inside the Linux namespaces: stand-alone modules, standard library only, bound read-only into the sandbox.

Nothing here is imported by the host but the seccomp table's test.
"""
