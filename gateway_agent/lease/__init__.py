"""The lease daemon's decisions about masters: datagrams and times in, effects out. Pure."""
