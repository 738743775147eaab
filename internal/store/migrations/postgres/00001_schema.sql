-- +goose Up
-- Times are microseconds since 1970 UTC; an open end is 9223372036854775807.
-- Keys sort by bytes (COLLATE "C"), as on SQLite and in Go. NOT NULL
-- everywhere, because a CHECK lets NULL pass; the one exception is
-- recorded_until, where NULL means "current".

-- Rows of environment and bucket are updated all the time and never in an indexed
-- column: spare room on the page keeps those updates out of the indexes.
CREATE TABLE environment (
  env              TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  revision         BIGINT NOT NULL CHECK (revision >= 0),
  catalog_revision BIGINT NOT NULL CHECK (catalog_revision BETWEEN 0 AND revision),
  clock_at         BIGINT NOT NULL -- -1: real time
) WITH (fillfactor = 70);
INSERT INTO environment (env, revision, catalog_revision, clock_at) VALUES ('production', 0, 0, -1), ('sandbox', 0, 0, -1);

-- One row for each revision: what raised it, when, by whom.
CREATE TABLE change (
  env        TEXT COLLATE "C" NOT NULL,
  revision   BIGINT NOT NULL,
  at         BIGINT NOT NULL,
  actor      TEXT COLLATE "C" NOT NULL,
  action     TEXT COLLATE "C" NOT NULL,
  customer   TEXT COLLATE "C" NOT NULL, -- '': the environment itself: catalogue or clock
  object     TEXT COLLATE "C" NOT NULL,
  request_id TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (env, revision)
);
CREATE INDEX change_customer ON change (customer, env, revision);
CREATE INDEX change_at ON change (env, at, revision);

CREATE TABLE catalog (
  env        TEXT COLLATE "C" NOT NULL,
  revision   BIGINT NOT NULL,
  hash       TEXT COLLATE "C" NOT NULL,
  source     TEXT NOT NULL, -- as sent
  canonical  TEXT NOT NULL,
  applied_at BIGINT NOT NULL,
  actor      TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (env, revision)
);

-- Published versions; never updated (S29). Keys and versions are never reused.
CREATE TABLE plan_version (
  env      TEXT COLLATE "C" NOT NULL,
  key      TEXT COLLATE "C" NOT NULL,
  version  BIGINT NOT NULL CHECK (version > 0),
  body     TEXT NOT NULL,
  revision BIGINT NOT NULL,
  PRIMARY KEY (env, key, version)
);

CREATE TABLE addon_version (
  env      TEXT COLLATE "C" NOT NULL,
  key      TEXT COLLATE "C" NOT NULL,
  version  BIGINT NOT NULL CHECK (version > 0),
  body     TEXT NOT NULL,
  revision BIGINT NOT NULL,
  PRIMARY KEY (env, key, version)
);

-- The head of a customer: its profile, which may be erased (S36), and the
-- revision of its latest change. What decides is in the dated tables.
CREATE TABLE customer (
  env        TEXT COLLATE "C" NOT NULL,
  id         TEXT COLLATE "C" NOT NULL,
  name       TEXT COLLATE "C" NOT NULL,
  metadata   TEXT NOT NULL,
  timezone   TEXT COLLATE "C" NOT NULL,
  anchor     BIGINT NOT NULL, -- -1: none; 0 is a time
  created_at BIGINT NOT NULL,
  deleted_at BIGINT NOT NULL, -- 0: live
  revision   BIGINT NOT NULL,
  PRIMARY KEY (env, id)
);

-- The dated tables (S30). recorded_from and recorded_until are revisions: a row
-- is what was known from the one on, up to the other. Rows are only added and
-- closed once; the partial unique index keeps two writers from both closing one.
CREATE TABLE customer_clock (
  env            TEXT COLLATE "C" NOT NULL,
  id             TEXT COLLATE "C" NOT NULL,
  clocks         TEXT NOT NULL,
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX customer_clock_now ON customer_clock (id, env) WHERE recorded_until IS NULL;
CREATE INDEX customer_clock_then ON customer_clock (id, env, recorded_from);

CREATE TABLE subscription (
  env            TEXT COLLATE "C" NOT NULL,
  id             TEXT COLLATE "C" NOT NULL,
  customer       TEXT COLLATE "C" NOT NULL,
  family         TEXT COLLATE "C" NOT NULL,
  body           TEXT NOT NULL,
  holds          TEXT COLLATE "C" NOT NULL, -- every plan and add-on version its phases name: ' pro@1 api-pack@1 '
  ends_at        BIGINT NOT NULL,
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX subscription_now ON subscription (id, env) WHERE recorded_until IS NULL;
CREATE INDEX subscription_customer ON subscription (customer, env, recorded_until);

CREATE TABLE overrides (
  env            TEXT COLLATE "C" NOT NULL,
  id             TEXT COLLATE "C" NOT NULL,
  customer       TEXT COLLATE "C" NOT NULL,
  feature        TEXT COLLATE "C" NOT NULL,
  body           TEXT NOT NULL,
  ends_at        BIGINT NOT NULL,
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX overrides_now ON overrides (id, env) WHERE recorded_until IS NULL;
CREATE INDEX overrides_customer ON overrides (customer, env, recorded_until);

CREATE TABLE grants (
  env            TEXT COLLATE "C" NOT NULL,
  id             TEXT COLLATE "C" NOT NULL,
  customer       TEXT COLLATE "C" NOT NULL,
  feature        TEXT COLLATE "C" NOT NULL,
  body           TEXT NOT NULL,
  ends_at        BIGINT NOT NULL, -- the earlier of its expiry and its voiding
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX grants_now ON grants (id, env) WHERE recorded_until IS NULL;
CREATE INDEX grants_customer ON grants (customer, env, recorded_until);

-- Idempotency record, ledger and history of a take, and the stored answers of
-- management calls (S13). No other index: it is written on every take.
CREATE TABLE op (
  key       TEXT COLLATE "C" NOT NULL,
  env       TEXT COLLATE "C" NOT NULL,
  route     TEXT COLLATE "C" NOT NULL,
  body_hash BYTEA NOT NULL,
  customer  TEXT COLLATE "C" NOT NULL,
  feature   TEXT COLLATE "C" NOT NULL,
  at        BIGINT NOT NULL,
  amount    BIGINT NOT NULL,
  answer    BYTEA NOT NULL,
  PRIMARY KEY (key, env)
);

CREATE TABLE event (
  id          TEXT COLLATE "C" NOT NULL,
  source      TEXT COLLATE "C" NOT NULL,
  env         TEXT COLLATE "C" NOT NULL,
  customer    TEXT COLLATE "C" NOT NULL,
  type        TEXT COLLATE "C" NOT NULL,
  at          BIGINT NOT NULL,
  received_at BIGINT NOT NULL,
  hash        BYTEA NOT NULL,
  data        TEXT NOT NULL,
  entries     BYTEA NOT NULL,
  PRIMARY KEY (id, source, env)
);

-- The last CHECK is invariant I1, written so that no sum can overflow.
CREATE TABLE bucket (
  customer  TEXT COLLATE "C" NOT NULL,
  env       TEXT COLLATE "C" NOT NULL,
  feature   TEXT COLLATE "C" NOT NULL,
  clock     TEXT COLLATE "C" NOT NULL,
  start_at  BIGINT NOT NULL,
  end_at    BIGINT NOT NULL,
  unlimited BIGINT NOT NULL CHECK (unlimited IN (0, 1)),
  lim       BIGINT NOT NULL CHECK (lim >= 0),
  opening   BIGINT NOT NULL CHECK (opening >= 0),
  used      BIGINT NOT NULL CHECK (used >= 0),
  reserved  BIGINT NOT NULL CHECK (reserved >= 0),
  overage   BIGINT NOT NULL CHECK (overage >= 0),
  excess    BIGINT NOT NULL CHECK (excess >= 0),
  at        BIGINT NOT NULL,
  PRIMARY KEY (customer, env, feature, clock, start_at),
  CHECK (end_at > start_at),
  CHECK (unlimited = 1 OR used - overage - excess + opening + reserved <= lim)
) WITH (fillfactor = 70);

-- Use per minute. Of max and last gauges, used is the minute's value and at its
-- event time.
CREATE TABLE rollup (
  customer  TEXT COLLATE "C" NOT NULL,
  env       TEXT COLLATE "C" NOT NULL,
  feature   TEXT COLLATE "C" NOT NULL,
  minute_at BIGINT NOT NULL,
  clock     TEXT COLLATE "C" NOT NULL,
  used      BIGINT NOT NULL,
  at        BIGINT NOT NULL,
  PRIMARY KEY (customer, env, feature, minute_at, clock)
);

CREATE TABLE rollup_dim (
  customer  TEXT COLLATE "C" NOT NULL,
  env       TEXT COLLATE "C" NOT NULL,
  feature   TEXT COLLATE "C" NOT NULL,
  dimension TEXT COLLATE "C" NOT NULL,
  value     TEXT COLLATE "C" NOT NULL,
  minute_at BIGINT NOT NULL,
  used      BIGINT NOT NULL,
  at        BIGINT NOT NULL,
  PRIMARY KEY (customer, env, feature, dimension, minute_at, value)
);

-- Values of unique meters; value before minute, because the question asked most
-- is "seen in this window already?".
CREATE TABLE seen (
  customer  TEXT COLLATE "C" NOT NULL,
  env       TEXT COLLATE "C" NOT NULL,
  feature   TEXT COLLATE "C" NOT NULL,
  value     TEXT COLLATE "C" NOT NULL,
  minute_at BIGINT NOT NULL,
  PRIMARY KEY (customer, env, feature, value, minute_at)
);

-- Whose usage each batch of each node changed; n is dense per node.
CREATE TABLE usage_batch (
  node      TEXT COLLATE "C" NOT NULL,
  n         BIGINT NOT NULL,
  at        BIGINT NOT NULL,
  customers TEXT NOT NULL, -- {"production":["acme"]}
  PRIMARY KEY (node, n)
);

CREATE TABLE api_key (
  id           TEXT COLLATE "C" NOT NULL PRIMARY KEY,
  env          TEXT COLLATE "C" NOT NULL,
  name         TEXT COLLATE "C" NOT NULL,
  role         TEXT COLLATE "C" NOT NULL,
  hash         BYTEA NOT NULL,
  created_at   BIGINT NOT NULL,
  expires_at   BIGINT NOT NULL, -- 0: never
  revoked_at   BIGINT NOT NULL, -- 0: not
  last_used_at BIGINT NOT NULL  -- 0: never
);
