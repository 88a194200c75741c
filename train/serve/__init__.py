"""The web page and its HTTP interface: one run, one store; extraction is handed in."""
