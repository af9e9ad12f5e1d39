"""Repairs of libp2p 0.8.1, one file per defect; `r3mes.p2p.repairs.layer` puts them in place."""
