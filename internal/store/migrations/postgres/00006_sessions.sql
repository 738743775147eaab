-- +goose Up
-- Sessions of operators in browsers. The cookie is not kept, its SHA-256 is.
CREATE TABLE session (
  hash       BYTEA   NOT NULL PRIMARY KEY, -- SHA-256 of the cookie's secret
  id         TEXT COLLATE "C" NOT NULL UNIQUE, -- opaque, for people and the audit log
  operator   TEXT COLLATE "C" NOT NULL,
  method     TEXT COLLATE "C" NOT NULL CHECK (method IN ('password', 'oidc')),
  login      TEXT COLLATE "C" NOT NULL, -- the login at the identity provider that it came from, used once; '' is none
  created_at BIGINT  NOT NULL, -- of the login: a session that follows by a proof keeps it
  proved_at  BIGINT  NOT NULL, -- 0: not proved
  seen_at    BIGINT  NOT NULL, -- not to the second: not every call writes
  ended_at   BIGINT  NOT NULL -- 0: live
);
CREATE UNIQUE INDEX session_login ON session (login) WHERE login <> ''; -- a login makes one session
CREATE INDEX session_operator ON session (operator) WHERE ended_at = 0; -- live sessions only
CREATE INDEX session_created ON session (created_at); -- old rows are dropped by it

-- Passwords of operators who do not come from an identity provider.
CREATE TABLE operator_password (
  operator TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  hash     TEXT COLLATE "C" NOT NULL, -- argon2id, as $argon2id$…
  set_at   BIGINT  NOT NULL
);

-- Who an operator is at an identity provider: never by email, which changes hands.
CREATE TABLE operator_subject (
  issuer   TEXT COLLATE "C" NOT NULL,
  subject  TEXT COLLATE "C" NOT NULL,
  operator TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (issuer, subject)
);
