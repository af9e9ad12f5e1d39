"""The actor kernel: mailboxes, actors, supervision. It knows nothing of p2p, chain or models."""
