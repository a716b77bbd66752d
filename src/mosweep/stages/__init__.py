"""The works that trials are made of, and the config groups that choose among them."""
