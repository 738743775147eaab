-- +goose Up
-- Which life of the database this is: a random id, made anew when the data comes
-- from a backup or a copy. One row, written when the database is first opened.
CREATE TABLE epoch (
  one BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
  id  TEXT COLLATE "C" NOT NULL
);

-- The SHA-256 of each migration's text, as it was when it was applied.
CREATE TABLE migration_hash (
  version BIGINT NOT NULL PRIMARY KEY,
  hash    TEXT COLLATE "C" NOT NULL
);
