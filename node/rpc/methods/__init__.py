"""The methods, one module for each namespace.

A class here takes what its methods need from `node/app.py`; `NAMESPACES` lists them all, so that
the documentation and the tests of keys and scopes walk over every method without a running node.
"""

from __future__ import annotations

from r3mes.node.rpc.methods.config import ConfigMethods
from r3mes.node.rpc.methods.db import DbMethods
from r3mes.node.rpc.methods.diag import DiagMethods
from r3mes.node.rpc.methods.diag_bundle import DiagBundle
from r3mes.node.rpc.methods.earn import EarnMethods
from r3mes.node.rpc.methods.infer import InferMethods
from r3mes.node.rpc.methods.infer_embed import InferEmbed
from r3mes.node.rpc.methods.infer_stream import InferStream
from r3mes.node.rpc.methods.key import KeyMethods
from r3mes.node.rpc.methods.model import ModelMethods
from r3mes.node.rpc.methods.model_adapters import ModelAdapters
from r3mes.node.rpc.methods.model_jobs import ModelJobs
from r3mes.node.rpc.methods.net import NetMethods
from r3mes.node.rpc.methods.node import NodeMethods
from r3mes.node.rpc.methods.node_control import NodeControl
from r3mes.node.rpc.methods.node_events import NodeEvents
from r3mes.node.rpc.methods.route import RouteMethods
from r3mes.node.rpc.methods.rpc import RpcMethods
from r3mes.node.rpc.methods.wallet import WalletMethods

NAMESPACES: tuple[type, ...] = (
    RpcMethods,
    NodeMethods,
    NodeControl,
    NodeEvents,
    NetMethods,
    ModelMethods,
    ModelAdapters,
    ModelJobs,
    InferMethods,
    InferStream,
    InferEmbed,
    RouteMethods,
    WalletMethods,
    EarnMethods,
    KeyMethods,
    DbMethods,
    DiagMethods,
    DiagBundle,
    ConfigMethods,
)
