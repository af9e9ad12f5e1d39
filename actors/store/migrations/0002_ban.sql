-- Peers that get no connection; without an end a ban holds until it is lifted.
CREATE TABLE ban (
    peer_id TEXT PRIMARY KEY,
    reason TEXT NOT NULL,
    since_ms INTEGER NOT NULL,
    until_ms INTEGER
) STRICT, WITHOUT ROWID;
