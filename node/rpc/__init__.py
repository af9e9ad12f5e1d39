"""JSON-RPC 2.0: every method of the node, over HTTP with a key or over the admin socket."""
