-- What a key may do beyond its scopes; NULL sets no limit.  models is a JSON list of names.
ALTER TABLE api_key ADD COLUMN models TEXT;
ALTER TABLE api_key ADD COLUMN rpm INTEGER;
ALTER TABLE api_key ADD COLUMN expires_ms INTEGER;

-- The secrets that open a key: one, and while it is rotated also the one before, until expires_ms.
CREATE TABLE api_key_secret (
    hash BLOB PRIMARY KEY,
    key_id TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    last_used_ms INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX api_key_secret_key ON api_key_secret (key_id);
INSERT INTO api_key_secret SELECT hash, id, created_ms, NULL, last_used_ms FROM api_key;
ALTER TABLE api_key DROP COLUMN hash;
ALTER TABLE api_key DROP COLUMN last_used_ms;

-- Which key an answer was for, in the copy of the gateway that answered it.
ALTER TABLE receipt ADD COLUMN key_id TEXT;
CREATE INDEX receipt_key ON receipt (key_id, created_ms) WHERE key_id IS NOT NULL;
