-- The first schema.  All times are unix milliseconds; amounts are uremes.

-- Which program brought the data to which version: named when an older program meets newer data.
CREATE TABLE migration (
    version INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    program TEXT NOT NULL,
    applied_ms INTEGER NOT NULL
) STRICT;

-- A row while a job runs or has a receipt: the same (sub, idem) is never worked on twice.
CREATE TABLE job (
    sub TEXT NOT NULL,
    idem BLOB NOT NULL,
    request_hash BLOB NOT NULL,
    opened_ms INTEGER NOT NULL,
    PRIMARY KEY (sub, idem)
) STRICT, WITHOUT ROWID;

-- What was answered, signed by the server and countersigned by the gateway; kept by both.
CREATE TABLE receipt (
    request_hash BLOB NOT NULL,
    role TEXT NOT NULL CHECK (role IN ('server', 'gateway')),
    sub TEXT NOT NULL,
    idem BLOB NOT NULL,
    peer TEXT NOT NULL,
    model TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    price INTEGER NOT NULL,
    status TEXT NOT NULL,
    result BLOB NOT NULL,
    signature BLOB NOT NULL,
    countersignature BLOB,
    created_ms INTEGER NOT NULL,
    PRIMARY KEY (request_hash, role)
) STRICT, WITHOUT ROWID;
CREATE INDEX receipt_created ON receipt (created_ms);
-- A server bills a job once, whatever its callers retry.
CREATE UNIQUE INDEX receipt_job ON receipt (sub, idem) WHERE role = 'server';

-- Keys to the HTTP API; of the secret only the hash is known.
CREATE TABLE api_key (
    id TEXT PRIMARY KEY,
    hash BLOB NOT NULL,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    last_used_ms INTEGER,
    revoked_ms INTEGER
) STRICT, WITHOUT ROWID;

-- Peers that were seen, to be found again after a restart; addrs is a JSON list of multiaddrs.
CREATE TABLE peer (
    peer_id TEXT PRIMARY KEY,
    addrs TEXT NOT NULL,
    last_seen_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
