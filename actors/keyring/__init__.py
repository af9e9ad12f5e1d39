"""API keys: who may use the HTTP API, for what, how much and how long."""

from r3mes.actors.keyring.key import ApiKey, Issued, NewKey, Secret
from r3mes.actors.keyring.keyring import Keyring

__all__ = ["ApiKey", "Issued", "Keyring", "NewKey", "Secret"]
