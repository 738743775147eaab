-- +goose Up
-- Who works with usher and what they may do; keys that follow each other.

ALTER TABLE api_key ADD COLUMN rate_per_second INTEGER NOT NULL DEFAULT 0; -- 0: the server's own
ALTER TABLE api_key ADD COLUMN rate_burst INTEGER NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN line TEXT NOT NULL DEFAULT ''; -- the first key of a line of rotation; '' is the key itself

-- One row, which every change to operators writes first: one at a time.
CREATE TABLE operators (
  one      INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  revision INTEGER NOT NULL
) STRICT;
INSERT INTO operators (one, revision) VALUES (1, 0);

-- The vendor's own people who work with usher.
CREATE TABLE operator (
  id         TEXT NOT NULL PRIMARY KEY,
  name       TEXT NOT NULL, -- personal data, here only
  email      TEXT NOT NULL, -- personal data, here only; lower case; '' is none
  active     INTEGER NOT NULL CHECK (active IN (0, 1)),
  created_at INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX operator_email ON operator (email) WHERE email <> ''; -- an address belongs to one operator

-- Roles of operators. Dated by time, not by revision.
CREATE TABLE operator_role (
  id         TEXT NOT NULL PRIMARY KEY,
  operator   TEXT NOT NULL,
  role       TEXT NOT NULL,
  env        TEXT NOT NULL, -- '' is both
  from_at    INTEGER NOT NULL,
  until_at   INTEGER NOT NULL, -- 9223372036854775807: no end
  source     TEXT NOT NULL, -- manual, sso, request or break_glass
  granted_by TEXT NOT NULL, -- an actor
  reason     TEXT NOT NULL
) STRICT;
CREATE INDEX operator_role_of ON operator_role (operator, from_at);
CREATE INDEX operator_role_owner ON operator_role (role, env); -- is there another owner?

-- One-time tokens that make an owner: how the first operator gets in.
CREATE TABLE owner_token (
  hash       BLOB NOT NULL PRIMARY KEY, -- SHA-256
  expires_at INTEGER NOT NULL
) STRICT;

-- Roles for a while: requests, and emergencies, which are reviewed afterwards.
CREATE TABLE elevation (
  id           TEXT NOT NULL PRIMARY KEY,
  operator     TEXT NOT NULL, -- who asks and who gets
  role         TEXT NOT NULL,
  env          TEXT NOT NULL, -- '' is both
  reason       TEXT NOT NULL,
  seconds      INTEGER NOT NULL, -- how long it holds after the approval
  break_glass  INTEGER NOT NULL CHECK (break_glass IN (0, 1)),
  state        TEXT NOT NULL CHECK (state IN ('requested', 'approved', 'denied')),
  requested_at INTEGER NOT NULL,
  decided_by   TEXT NOT NULL,
  decided_at   INTEGER NOT NULL, -- 0: not
  note         TEXT NOT NULL,
  review       TEXT NOT NULL CHECK (review IN ('', 'pending', 'justified', 'unjustified')), -- '' is none due
  reviewed_by  TEXT NOT NULL,
  reviewed_at  INTEGER NOT NULL, -- 0: not
  review_note  TEXT NOT NULL
) STRICT;
CREATE INDEX elevation_of ON elevation (operator, requested_at);
-- Emergencies whose review is due, which are few.
CREATE INDEX elevation_review ON elevation (review, requested_at) WHERE review = 'pending';
