-- +goose Up
-- Who works with usher and what they may do; keys that follow each other.

ALTER TABLE api_key ADD COLUMN rate_per_second BIGINT NOT NULL DEFAULT 0; -- 0: the server's own
ALTER TABLE api_key ADD COLUMN rate_burst BIGINT NOT NULL DEFAULT 0;
ALTER TABLE api_key ADD COLUMN line TEXT COLLATE "C" NOT NULL DEFAULT ''; -- the first key of a line of rotation; '' is the key itself

-- One row, which every change to operators writes first: one at a time.
CREATE TABLE operators (
  one      BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
  revision BIGINT NOT NULL
);
INSERT INTO operators (one, revision) VALUES (1, 0);

-- The vendor's own people who work with usher.
CREATE TABLE operator (
  id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  name       TEXT COLLATE "C" NOT NULL, -- personal data, here only
  email      TEXT COLLATE "C" NOT NULL, -- personal data, here only; lower case; '' is none
  active     BIGINT NOT NULL CHECK (active IN (0, 1)),
  created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX operator_email ON operator (email) WHERE email <> ''; -- an address belongs to one operator

-- Roles of operators. Dated by time, not by revision.
CREATE TABLE operator_role (
  id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  operator   TEXT COLLATE "C" NOT NULL,
  role       TEXT COLLATE "C" NOT NULL,
  env        TEXT COLLATE "C" NOT NULL, -- '' is both
  from_at    BIGINT NOT NULL,
  until_at   BIGINT NOT NULL, -- 9223372036854775807: no end
  source     TEXT COLLATE "C" NOT NULL, -- manual, sso, request or break_glass
  granted_by TEXT COLLATE "C" NOT NULL, -- an actor
  reason     TEXT COLLATE "C" NOT NULL
);
CREATE INDEX operator_role_of ON operator_role (operator, from_at);
CREATE INDEX operator_role_owner ON operator_role (role, env); -- is there another owner?

-- One-time tokens that make an owner: how the first operator gets in.
CREATE TABLE owner_token (
  hash       BYTEA NOT NULL PRIMARY KEY, -- SHA-256
  expires_at BIGINT NOT NULL
);

-- Roles for a while: requests, and emergencies, which are reviewed afterwards.
CREATE TABLE elevation (
  id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  operator     TEXT COLLATE "C" NOT NULL, -- who asks and who gets
  role         TEXT COLLATE "C" NOT NULL,
  env          TEXT COLLATE "C" NOT NULL, -- '' is both
  reason       TEXT COLLATE "C" NOT NULL,
  seconds      BIGINT NOT NULL, -- how long it holds after the approval
  break_glass  BIGINT NOT NULL CHECK (break_glass IN (0, 1)),
  state        TEXT COLLATE "C" NOT NULL CHECK (state IN ('requested', 'approved', 'denied')),
  requested_at BIGINT NOT NULL,
  decided_by   TEXT COLLATE "C" NOT NULL,
  decided_at   BIGINT NOT NULL, -- 0: not
  note         TEXT COLLATE "C" NOT NULL,
  review       TEXT COLLATE "C" NOT NULL CHECK (review IN ('', 'pending', 'justified', 'unjustified')), -- '' is none due
  reviewed_by  TEXT COLLATE "C" NOT NULL,
  reviewed_at  BIGINT NOT NULL, -- 0: not
  review_note  TEXT COLLATE "C" NOT NULL
);
CREATE INDEX elevation_of ON elevation (operator, requested_at);
-- Emergencies whose review is due, which are few.
CREATE INDEX elevation_review ON elevation (review, requested_at) WHERE review = 'pending';
