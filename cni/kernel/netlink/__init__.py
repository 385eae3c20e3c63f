"""Hand-written netlink, for code that runs for each pod, failover, heartbeat or packet, or reads a whole kernel table.

pyroute2 takes 0.2 s to import and 1 ms for a socket. It is used for the kinds of objects in :mod:`cni.kernel.state`,
by :mod:`cni.kernel.rtnl`. All modules here use the numbers of ``constants``, the layouts of ``messages`` and the socket
of ``netlink_socket``.
"""
