-- +goose Up
-- Sessions of operators in browsers. The cookie is not kept, its SHA-256 is.
CREATE TABLE session (
  hash       BLOB    NOT NULL PRIMARY KEY, -- SHA-256 of the cookie's secret
  id         TEXT    NOT NULL UNIQUE, -- opaque, for people and the audit log
  operator   TEXT    NOT NULL,
  method     TEXT    NOT NULL CHECK (method IN ('password', 'oidc')),
  login      TEXT    NOT NULL, -- the login at the identity provider that it came from, used once; '' is none
  created_at INTEGER NOT NULL, -- of the login: a session that follows by a proof keeps it
  proved_at  INTEGER NOT NULL, -- 0: not proved
  seen_at    INTEGER NOT NULL, -- not to the second: not every call writes
  ended_at   INTEGER NOT NULL -- 0: live
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX session_login ON session (login) WHERE login <> ''; -- a login makes one session
CREATE INDEX session_operator ON session (operator) WHERE ended_at = 0; -- live sessions only
CREATE INDEX session_created ON session (created_at); -- old rows are dropped by it

-- Passwords of operators who do not come from an identity provider.
CREATE TABLE operator_password (
  operator TEXT    NOT NULL PRIMARY KEY,
  hash     TEXT    NOT NULL, -- argon2id, as $argon2id$…
  set_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Who an operator is at an identity provider: never by email, which changes hands.
CREATE TABLE operator_subject (
  issuer   TEXT NOT NULL,
  subject  TEXT NOT NULL,
  operator TEXT NOT NULL,
  PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
