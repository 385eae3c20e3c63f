"""The lease daemon's decisions about masters, from datagrams and time to effects. Pure."""
