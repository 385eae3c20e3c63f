"""Log connections through egress IPs: one line at the start and one at the end of each."""
