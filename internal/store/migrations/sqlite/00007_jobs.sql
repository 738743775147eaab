-- +goose Up
-- Background work that one node at a time does for the whole database.
CREATE TABLE job (
  name         TEXT    NOT NULL PRIMARY KEY,
  node         TEXT    NOT NULL, -- that runs it or ran it last; '' is none
  lease_until  INTEGER NOT NULL, -- no other node runs it before; 0: no node runs it
  due_at       INTEGER NOT NULL,
  succeeded_at INTEGER NOT NULL, -- 0: never
  failed_at    INTEGER NOT NULL, -- 0: never
  failures     INTEGER NOT NULL CHECK (failures >= 0), -- since the last success
  error        TEXT    NOT NULL  -- of the last failure
) STRICT, WITHOUT ROWID;
