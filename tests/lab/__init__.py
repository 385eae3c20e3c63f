"""Hosts as network namespaces: the machines on which the whole stories run.

Everything but the machines is real: plugins, agents, interfaces, packets.
"""
