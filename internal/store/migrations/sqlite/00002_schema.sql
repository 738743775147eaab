-- +goose Up
-- Times are microseconds since 1970 UTC; an open end is 9223372036854775807.
-- STRICT: without it a column takes text for a number, and an INTEGER that
-- overflows silently becomes a float. NOT NULL everywhere, because a CHECK lets
-- NULL pass; the one exception is recorded_until, where NULL means "current".
--
-- WITHOUT ROWID is for tables of narrow rows that are always found by their
-- primary key: it saves the second tree. Tables with wide rows (op, event,
-- catalog, the dated ones) keep the rowid, so that index pages stay small and
-- inserts in key order do not move wide rows about.

-- "usher" in the file's header, so that another program's file is not touched.
PRAGMA application_id = 1970497650;

CREATE TABLE environment (
  env              TEXT    NOT NULL PRIMARY KEY,
  revision         INTEGER NOT NULL CHECK (revision >= 0),
  catalog_revision INTEGER NOT NULL CHECK (catalog_revision BETWEEN 0 AND revision),
  clock_at         INTEGER NOT NULL -- -1: real time
) STRICT, WITHOUT ROWID;
INSERT INTO environment (env, revision, catalog_revision, clock_at) VALUES ('production', 0, 0, -1), ('sandbox', 0, 0, -1);

-- One row for each revision: what raised it, when, by whom.
CREATE TABLE change (
  env        TEXT    NOT NULL,
  revision   INTEGER NOT NULL,
  at         INTEGER NOT NULL,
  actor      TEXT    NOT NULL,
  action     TEXT    NOT NULL,
  customer   TEXT    NOT NULL, -- '': the environment itself: catalogue or clock
  object     TEXT    NOT NULL,
  request_id TEXT    NOT NULL,
  PRIMARY KEY (env, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX change_customer ON change (customer, env, revision);
CREATE INDEX change_at ON change (env, at, revision);

CREATE TABLE catalog (
  env        TEXT    NOT NULL,
  revision   INTEGER NOT NULL,
  hash       TEXT    NOT NULL,
  source     TEXT    NOT NULL, -- as sent
  canonical  TEXT    NOT NULL,
  applied_at INTEGER NOT NULL,
  actor      TEXT    NOT NULL,
  PRIMARY KEY (env, revision)
) STRICT;

-- Published versions; never updated (S29). Keys and versions are never reused.
CREATE TABLE plan_version (
  env      TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  version  INTEGER NOT NULL CHECK (version > 0),
  body     TEXT    NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (env, key, version)
) STRICT;

CREATE TABLE addon_version (
  env      TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  version  INTEGER NOT NULL CHECK (version > 0),
  body     TEXT    NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (env, key, version)
) STRICT;

-- The head of a customer: its profile, which may be erased (S36), and the
-- revision of its latest change. What decides is in the dated tables.
CREATE TABLE customer (
  env        TEXT    NOT NULL,
  id         TEXT    NOT NULL,
  name       TEXT    NOT NULL,
  metadata   TEXT    NOT NULL,
  timezone   TEXT    NOT NULL,
  anchor     INTEGER NOT NULL, -- -1: none; 0 is a time
  created_at INTEGER NOT NULL,
  deleted_at INTEGER NOT NULL, -- 0: live
  revision   INTEGER NOT NULL,
  PRIMARY KEY (env, id)
) STRICT, WITHOUT ROWID;

-- The dated tables (S30). recorded_from and recorded_until are revisions: a row
-- is what was known from the one on, up to the other. Rows are only added and
-- closed once; the partial unique index keeps two writers from both closing one.
CREATE TABLE customer_clock (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  clocks         TEXT    NOT NULL,
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX customer_clock_now ON customer_clock (id, env) WHERE recorded_until IS NULL;
CREATE INDEX customer_clock_then ON customer_clock (id, env, recorded_from);

CREATE TABLE subscription (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  customer       TEXT    NOT NULL,
  family         TEXT    NOT NULL,
  body           TEXT    NOT NULL,
  holds          TEXT    NOT NULL, -- every plan and add-on version its phases name: ' pro@1 api-pack@1 '
  ends_at        INTEGER NOT NULL,
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX subscription_now ON subscription (id, env) WHERE recorded_until IS NULL;
CREATE INDEX subscription_customer ON subscription (customer, env, recorded_until);

CREATE TABLE overrides (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  customer       TEXT    NOT NULL,
  feature        TEXT    NOT NULL,
  body           TEXT    NOT NULL,
  ends_at        INTEGER NOT NULL,
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX overrides_now ON overrides (id, env) WHERE recorded_until IS NULL;
CREATE INDEX overrides_customer ON overrides (customer, env, recorded_until);

CREATE TABLE grants (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  customer       TEXT    NOT NULL,
  feature        TEXT    NOT NULL,
  body           TEXT    NOT NULL,
  ends_at        INTEGER NOT NULL, -- the earlier of its expiry and its voiding
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX grants_now ON grants (id, env) WHERE recorded_until IS NULL;
CREATE INDEX grants_customer ON grants (customer, env, recorded_until);

-- Idempotency record, ledger and history of a take, and the stored answers of
-- management calls (S13). No other index: it is written on every take.
CREATE TABLE op (
  key       TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  route     TEXT    NOT NULL,
  body_hash BLOB    NOT NULL,
  customer  TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  at        INTEGER NOT NULL,
  amount    INTEGER NOT NULL,
  answer    BLOB    NOT NULL,
  PRIMARY KEY (key, env)
) STRICT;

CREATE TABLE event (
  id          TEXT    NOT NULL,
  source      TEXT    NOT NULL,
  env         TEXT    NOT NULL,
  customer    TEXT    NOT NULL,
  type        TEXT    NOT NULL,
  at          INTEGER NOT NULL,
  received_at INTEGER NOT NULL,
  hash        BLOB    NOT NULL,
  data        TEXT    NOT NULL,
  entries     BLOB    NOT NULL,
  PRIMARY KEY (id, source, env)
) STRICT;

-- The last CHECK is invariant I1, written so that no sum can overflow.
CREATE TABLE bucket (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  clock     TEXT    NOT NULL,
  start_at  INTEGER NOT NULL,
  end_at    INTEGER NOT NULL,
  unlimited INTEGER NOT NULL CHECK (unlimited IN (0, 1)),
  lim       INTEGER NOT NULL CHECK (lim >= 0),
  opening   INTEGER NOT NULL CHECK (opening >= 0),
  used      INTEGER NOT NULL CHECK (used >= 0),
  reserved  INTEGER NOT NULL CHECK (reserved >= 0),
  overage   INTEGER NOT NULL CHECK (overage >= 0),
  excess    INTEGER NOT NULL CHECK (excess >= 0),
  at        INTEGER NOT NULL,
  PRIMARY KEY (customer, env, feature, clock, start_at),
  CHECK (end_at > start_at),
  CHECK (unlimited = 1 OR used - overage - excess + opening + reserved <= lim)
) STRICT, WITHOUT ROWID;

-- Use per minute, hour and day of UTC (grain: 1, 60, 1440), each written with the
-- use itself, so that long spans are sums of few rows. Of max and last gauges,
-- used is the span's value and at its event time.
CREATE TABLE rollup (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  grain     INTEGER NOT NULL CHECK (grain IN (1, 60, 1440)),
  start_at  INTEGER NOT NULL,
  clock     TEXT    NOT NULL,
  used      INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  PRIMARY KEY (customer, env, feature, grain, start_at, clock)
) STRICT, WITHOUT ROWID;

CREATE TABLE rollup_dim (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  grain     INTEGER NOT NULL CHECK (grain IN (1, 60, 1440)),
  dimension TEXT    NOT NULL,
  value     TEXT    NOT NULL,
  start_at  INTEGER NOT NULL,
  used      INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  PRIMARY KEY (customer, env, feature, dimension, grain, start_at, value)
) STRICT, WITHOUT ROWID;

-- Values of unique meters; value before minute, because the question asked most
-- is "seen in this window already?".
CREATE TABLE seen (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  value     TEXT    NOT NULL,
  minute_at INTEGER NOT NULL,
  PRIMARY KEY (customer, env, feature, value, minute_at)
) STRICT, WITHOUT ROWID;

-- Open and past reservations (S23). entries is what it holds of which buckets;
-- how it ended is in op, under a key made of its id.
CREATE TABLE hold (
  id         TEXT    NOT NULL,
  env        TEXT    NOT NULL,
  customer   TEXT    NOT NULL,
  feature    TEXT    NOT NULL,
  amount     INTEGER NOT NULL CHECK (amount >= 0),
  at         INTEGER NOT NULL,
  expires_at INTEGER NOT NULL CHECK (expires_at > at),
  closed_at  INTEGER NOT NULL, -- 0: open
  state      TEXT    NOT NULL CHECK (state IN ('open', 'settled', 'released', 'expired')),
  entries    BLOB    NOT NULL,
  PRIMARY KEY (id, env),
  CHECK ((state = 'open') = (closed_at = 0))
) STRICT;
CREATE INDEX hold_open ON hold (customer, env) WHERE closed_at = 0;

-- Who holds a seat, and who held one (S22). A change closes the row and adds a
-- new one; only expires_at of a seat that is kept alive moves.
CREATE TABLE seat (
  customer    TEXT    NOT NULL,
  env         TEXT    NOT NULL,
  feature     TEXT    NOT NULL,
  holder      TEXT    NOT NULL,
  n           INTEGER NOT NULL CHECK (n > 0), -- counts the rows of one holder
  pending     INTEGER NOT NULL CHECK (pending IN (0, 1)),
  since       INTEGER NOT NULL, -- when the holder came: a change of state keeps it
  at          INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL, -- 9223372036854775807: it does not end by itself
  released_at INTEGER NOT NULL, -- 0: held
  PRIMARY KEY (customer, env, feature, holder, n)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX seat_held ON seat (customer, env, feature, holder) WHERE released_at = 0;
CREATE INDEX seat_ending ON seat (customer, env, expires_at) WHERE released_at = 0 AND expires_at < 9223372036854775807;

-- What was given back, by what it was given back of (S16): a take's key with
-- source '', or an event's id and source.
CREATE TABLE correction (
  ref      TEXT    NOT NULL,
  source   TEXT    NOT NULL,
  env      TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  customer TEXT    NOT NULL,
  feature  TEXT    NOT NULL,
  amount   INTEGER NOT NULL CHECK (amount > 0),
  at       INTEGER NOT NULL,
  reason   TEXT    NOT NULL,
  actor    TEXT    NOT NULL,
  entries  BLOB    NOT NULL,
  PRIMARY KEY (ref, source, env, key)
) STRICT;

-- What was denied, or would have been, per hour (S26).
CREATE TABLE denial (
  customer TEXT    NOT NULL,
  env      TEXT    NOT NULL,
  feature  TEXT    NOT NULL,
  hour_at  INTEGER NOT NULL,
  outcome  TEXT    NOT NULL, -- denied, warned, shadowed, excess
  reason   TEXT    NOT NULL,
  n        INTEGER NOT NULL CHECK (n > 0),
  amount   INTEGER NOT NULL CHECK (amount >= 0),
  PRIMARY KEY (customer, env, feature, hour_at, outcome, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX denial_hour ON denial (env, hour_at);

-- The ledger of takes whose answers are no longer kept, added up per minute
-- (S13). With op and event it is the whole of what was taken.
CREATE TABLE folded (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  clock     TEXT    NOT NULL,
  start_at  INTEGER NOT NULL,
  minute_at INTEGER NOT NULL,
  amount    INTEGER NOT NULL,
  PRIMARY KEY (customer, env, feature, clock, start_at, minute_at)
) STRICT, WITHOUT ROWID;

-- Whose usage each batch of each node changed; n is dense per node.
CREATE TABLE usage_batch (
  node      TEXT    NOT NULL,
  n         INTEGER NOT NULL,
  at        INTEGER NOT NULL,
  customers TEXT    NOT NULL, -- {"production":["acme"]}
  PRIMARY KEY (node, n)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_key (
  id           TEXT    NOT NULL PRIMARY KEY,
  env          TEXT    NOT NULL,
  name         TEXT    NOT NULL,
  role         TEXT    NOT NULL,
  hash         BLOB    NOT NULL,
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL, -- 0: never
  revoked_at   INTEGER NOT NULL, -- 0: not
  last_used_at INTEGER NOT NULL  -- 0: never
) STRICT, WITHOUT ROWID;
