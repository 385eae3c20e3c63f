"""Hosts as network namespaces: the machines on which whole scenarios run.

Everything but the machines is real: plugins, agents, interfaces, packets.
"""
