-- +goose Up
-- Types of events that were accepted although no meter read them: those seen last.
CREATE TABLE unmatched (
  env     TEXT    NOT NULL,
  type    TEXT    NOT NULL,
  n       INTEGER NOT NULL CHECK (n > 0),
  last_at INTEGER NOT NULL, -- when the newest was received
  source  TEXT    NOT NULL, -- of the newest
  PRIMARY KEY (env, type)
) STRICT, WITHOUT ROWID;
