-- +goose Up
-- The audit log: one for the installation. leaf is exactly the bytes that are
-- hashed; the columns beside it are for finding rows and say the same. Rows are
-- added, never changed: the triggers refuse it, and hashes show a change that
-- was made without them.

CREATE TABLE audit (
  n        INTEGER NOT NULL PRIMARY KEY CHECK (n >= 0), -- dense, from 0
  leaf     BLOB    NOT NULL,
  at       INTEGER NOT NULL, -- the server's time
  env      TEXT    NOT NULL, -- '': the installation
  actor    TEXT    NOT NULL,
  action   TEXT    NOT NULL,
  customer TEXT    NOT NULL, -- '': none
  object   TEXT    NOT NULL
) STRICT;
CREATE INDEX audit_customer ON audit (customer, env, n) WHERE customer <> '';
CREATE INDEX audit_action ON audit (action, n);
CREATE INDEX audit_actor ON audit (actor, n);
CREATE INDEX audit_object ON audit (object, n);
CREATE INDEX audit_at ON audit (at, n);
CREATE UNIQUE INDEX audit_hour ON audit (env, object) WHERE action = 'usage.hour'; -- one node adds it

-- Hashes of whole subtrees, in the order in which the tree grows.
CREATE TABLE audit_hash (
  i    INTEGER NOT NULL PRIMARY KEY CHECK (i >= 0), -- the tree's own order: after each leaf the subtrees that it completes
  hash BLOB    NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Where the log stands: replaced with every row, in its transaction.
CREATE TABLE audit_head (
  one  INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  size INTEGER NOT NULL CHECK (size >= 0),
  root BLOB    NOT NULL,
  note TEXT    NOT NULL, -- the signed checkpoint
  key  TEXT    NOT NULL  -- the public key that signed it; '': nothing is signed yet
) STRICT;
INSERT INTO audit_head (one, size, root, note, key) VALUES (1, 0, x'', '', '');

-- The private key, where it was not given from outside.
CREATE TABLE audit_key (
  one     INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  private TEXT    NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER audit_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_insert BEFORE INSERT ON audit WHEN NEW.n <> (SELECT size FROM audit_head)
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_hash_update BEFORE UPDATE ON audit_hash BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_hash_delete BEFORE DELETE ON audit_hash BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_hash_insert BEFORE INSERT ON audit_hash WHEN EXISTS (SELECT 1 FROM audit_hash WHERE i = NEW.i)
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_head_update BEFORE UPDATE ON audit_head WHEN NEW.size <= OLD.size
  BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE TRIGGER audit_head_delete BEFORE DELETE ON audit_head BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
-- +goose StatementEnd
