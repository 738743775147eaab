-- +goose Up
-- Invitations with which operators set a password, one for each operator at most.
CREATE TABLE operator_invite (
  operator   TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  hash       BYTEA  NOT NULL, -- SHA-256 of the token
  expires_at BIGINT NOT NULL
);
