"""Keys: addresses, wallets, keystores, signatures."""
