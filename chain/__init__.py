"""The R3MES chain: accounts and, later, queries and transactions."""
