"""Between nodes: libp2p behind one module, frames and protocols."""
