"""Install this version on a plain node as systemd services, replace an earlier version by it, or remove it."""
