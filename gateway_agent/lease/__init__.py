"""Who is master: the lease daemon's decisions, from datagrams and time to effects. Pure."""
