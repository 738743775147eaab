-- +goose Up
-- Invitations with which operators set a password, one for each operator at most.
CREATE TABLE operator_invite (
  operator   TEXT    NOT NULL PRIMARY KEY,
  hash       BLOB    NOT NULL, -- SHA-256 of the token
  expires_at INTEGER NOT NULL
) STRICT;
