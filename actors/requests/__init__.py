"""Signed requests, replay protection and receipts: a plain library for any actor."""
