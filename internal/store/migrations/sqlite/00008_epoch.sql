-- +goose Up
-- Which life of the database this is: a random id, made anew when the data comes
-- from a backup or a copy. One row, written when the database is first opened.
CREATE TABLE epoch (
  one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  id  TEXT    NOT NULL
) STRICT;

-- The SHA-256 of each migration's text, as it was when it was applied.
CREATE TABLE migration_hash (
  version INTEGER NOT NULL PRIMARY KEY,
  hash    TEXT    NOT NULL
) STRICT;
