"""Netlink by hand: what runs for each pod, failover, heartbeat or packet, or reads a whole table of the kernel.

pyroute2 takes 0.2 s to import and 1 ms for a socket. It serves for the kinds of objects in :mod:`cni.kernel.state`,
by way of :mod:`cni.kernel.rtnl`. All that is here uses the numbers of ``constants``, the layouts of ``messages`` and
the socket of ``netlink_socket``.
"""
