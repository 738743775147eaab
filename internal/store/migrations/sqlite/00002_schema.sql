-- +goose Up
-- Times are microseconds since 1970 UTC; an open end is 9223372036854775807.
-- Amounts count the feature's smallest unit.
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
  revision         INTEGER NOT NULL CHECK (revision >= 0), -- of the newest change; 0: none yet
  catalog_revision INTEGER NOT NULL CHECK (catalog_revision BETWEEN 0 AND revision), -- of the catalogue in force; 0: none yet
  clock_at         INTEGER NOT NULL -- -1: real time
) STRICT, WITHOUT ROWID;
INSERT INTO environment (env, revision, catalog_revision, clock_at) VALUES ('production', 0, 0, -1), ('sandbox', 0, 0, -1);

-- One row for each revision: what raised it, when, by whom.
CREATE TABLE change (
  env        TEXT    NOT NULL,
  revision   INTEGER NOT NULL,
  at         INTEGER NOT NULL, -- by the environment's clock
  actor      TEXT    NOT NULL, -- "key:…", "operator:…", "system"
  action     TEXT    NOT NULL,
  customer   TEXT    NOT NULL, -- '': the environment itself: catalogue or clock
  object     TEXT    NOT NULL, -- id or key of what changed; no personal data
  request_id TEXT    NOT NULL,
  PRIMARY KEY (env, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX change_customer ON change (customer, env, revision); -- for a customer's history
CREATE INDEX change_at ON change (env, at, revision); -- which revision was the newest at a time?

CREATE TABLE catalog (
  env        TEXT    NOT NULL,
  revision   INTEGER NOT NULL,
  hash       TEXT    NOT NULL, -- of canonical
  source     TEXT    NOT NULL, -- as sent
  canonical  TEXT    NOT NULL, -- the same in normal form
  applied_at INTEGER NOT NULL,
  actor      TEXT    NOT NULL,
  PRIMARY KEY (env, revision)
) STRICT;

-- Published versions; never updated (S29). Keys and versions are never reused.
CREATE TABLE plan_version (
  env      TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  version  INTEGER NOT NULL CHECK (version > 0),
  body     TEXT    NOT NULL, -- JSON of usher.PlanVersion
  revision INTEGER NOT NULL, -- that published it
  PRIMARY KEY (env, key, version)
) STRICT;

CREATE TABLE addon_version (
  env      TEXT    NOT NULL,
  key      TEXT    NOT NULL,
  version  INTEGER NOT NULL CHECK (version > 0),
  body     TEXT    NOT NULL, -- JSON of usher.AddonVersion
  revision INTEGER NOT NULL, -- that published it
  PRIMARY KEY (env, key, version)
) STRICT;

-- The head of a customer: its profile, which may be erased (S36), and the
-- revision of its latest change. What decides is in the dated tables.
CREATE TABLE customer (
  env        TEXT    NOT NULL,
  id         TEXT    NOT NULL,
  name       TEXT    NOT NULL,
  metadata   TEXT    NOT NULL, -- JSON object of texts
  timezone   TEXT    NOT NULL, -- IANA name; '': the environment's
  anchor     INTEGER NOT NULL, -- -1: none; 0 is a time
  created_at INTEGER NOT NULL,
  deleted_at INTEGER NOT NULL, -- 0: live
  revision   INTEGER NOT NULL, -- of the newest change to what it holds
  PRIMARY KEY (env, id)
) STRICT, WITHOUT ROWID;

-- The dated tables (S30). recorded_from and recorded_until are revisions: a row
-- is what was known from the one on, up to the other. Rows are only added and
-- closed once; the partial unique index keeps two writers from both closing one.
CREATE TABLE customer_clock (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  clocks         TEXT    NOT NULL, -- JSON array of usher.Clock
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
  body           TEXT    NOT NULL, -- JSON of usher.Subscription
  holds          TEXT    NOT NULL, -- every plan and add-on version its phases name: ' pro@1 api-pack@1 '
  ends_at        INTEGER NOT NULL,
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX subscription_now ON subscription (id, env) WHERE recorded_until IS NULL;
CREATE INDEX subscription_customer ON subscription (customer, env, recorded_until); -- loading a customer, now (NULL) and as known then

CREATE TABLE overrides (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  customer       TEXT    NOT NULL,
  feature        TEXT    NOT NULL,
  body           TEXT    NOT NULL, -- JSON of usher.Override
  ends_at        INTEGER NOT NULL,
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX overrides_now ON overrides (id, env) WHERE recorded_until IS NULL;
CREATE INDEX overrides_customer ON overrides (customer, env, recorded_until); -- the same

CREATE TABLE grants (
  env            TEXT    NOT NULL,
  id             TEXT    NOT NULL,
  customer       TEXT    NOT NULL,
  feature        TEXT    NOT NULL,
  body           TEXT    NOT NULL, -- JSON of usher.Grant
  ends_at        INTEGER NOT NULL, -- the earlier of its expiry and its voiding
  recorded_from  INTEGER NOT NULL,
  recorded_until INTEGER CHECK (recorded_until > recorded_from)
) STRICT;
CREATE UNIQUE INDEX grants_now ON grants (id, env) WHERE recorded_until IS NULL;
CREATE INDEX grants_customer ON grants (customer, env, recorded_until); -- the same

-- Idempotency record, ledger and history of a take, and the stored answers of
-- management calls (S13). No other index: it is written on every take.
CREATE TABLE op (
  key       TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  route     TEXT    NOT NULL,
  body_hash BLOB    NOT NULL, -- of the request: the same key with another one is refused
  customer  TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  at        INTEGER NOT NULL,
  amount    INTEGER NOT NULL, -- smallest units
  answer    BLOB    NOT NULL, -- a take in the ledger's form; "http", status and body of a management call
  PRIMARY KEY (key, env)
) STRICT;

-- Reported events, whole: what was booked can be worked out again from them.
CREATE TABLE event (
  id          TEXT    NOT NULL,
  source      TEXT    NOT NULL, -- CloudEvents source: id and source together are unique
  env         TEXT    NOT NULL,
  customer    TEXT    NOT NULL,
  type        TEXT    NOT NULL,
  at          INTEGER NOT NULL, -- when it happened
  received_at INTEGER NOT NULL,
  hash        BLOB    NOT NULL, -- of the content: the same id with other content is refused
  data        TEXT    NOT NULL, -- JSON, as sent
  entries     BLOB    NOT NULL, -- what it was booked to, in the ledger's form
  PRIMARY KEY (id, source, env)
) STRICT;

-- The last CHECK is invariant I1, written so that no sum can overflow.
CREATE TABLE bucket (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  clock     TEXT    NOT NULL, -- named by the engine: one for each period and anchor, one for each grant
  start_at  INTEGER NOT NULL,
  end_at    INTEGER NOT NULL,
  unlimited INTEGER NOT NULL CHECK (unlimited IN (0, 1)),
  lim       INTEGER NOT NULL CHECK (lim >= 0), -- smallest units, as all amounts
  opening   INTEGER NOT NULL CHECK (opening >= 0), -- used in the window before the bucket was there
  used      INTEGER NOT NULL CHECK (used >= 0),
  reserved  INTEGER NOT NULL CHECK (reserved >= 0),
  overage   INTEGER NOT NULL CHECK (overage >= 0), -- part of used beyond lim that the plan permits
  excess    INTEGER NOT NULL CHECK (excess >= 0), -- part of used beyond lim that nothing permits
  at        INTEGER NOT NULL, -- event time of the last value of a gauge; 0: none
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
  clock     TEXT    NOT NULL, -- whose bucket took it
  used      INTEGER NOT NULL, -- smallest units
  at        INTEGER NOT NULL, -- 0, but for gauges
  PRIMARY KEY (customer, env, feature, grain, start_at, clock)
) STRICT, WITHOUT ROWID;

-- The same by the values of one property, for meters that are split by it.
CREATE TABLE rollup_dim (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  grain     INTEGER NOT NULL CHECK (grain IN (1, 60, 1440)),
  dimension TEXT    NOT NULL, -- path of the property in the event's data
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
  minute_at INTEGER NOT NULL, -- start of the minute
  PRIMARY KEY (customer, env, feature, value, minute_at)
) STRICT, WITHOUT ROWID;

-- Open and past reservations (S23). entries is what it holds of which buckets;
-- how it ended is in op, under a key made of its id.
CREATE TABLE hold (
  id         TEXT    NOT NULL,
  env        TEXT    NOT NULL,
  customer   TEXT    NOT NULL,
  feature    TEXT    NOT NULL,
  amount     INTEGER NOT NULL CHECK (amount >= 0), -- smallest units
  at         INTEGER NOT NULL,
  expires_at INTEGER NOT NULL CHECK (expires_at > at),
  closed_at  INTEGER NOT NULL, -- 0: open
  state      TEXT    NOT NULL CHECK (state IN ('open', 'settled', 'released', 'expired')),
  entries    BLOB    NOT NULL,
  PRIMARY KEY (id, env),
  CHECK ((state = 'open') = (closed_at = 0))
) STRICT;
CREATE INDEX hold_open ON hold (customer, env) WHERE closed_at = 0; -- small: most reservations have ended

-- Who holds a seat, and who held one (S22). A change closes the row and adds a
-- new one; only expires_at of a seat that is kept alive moves.
CREATE TABLE seat (
  customer    TEXT    NOT NULL,
  env         TEXT    NOT NULL,
  feature     TEXT    NOT NULL,
  holder      TEXT    NOT NULL,
  n           INTEGER NOT NULL CHECK (n > 0), -- counts the rows of one holder
  pending     INTEGER NOT NULL CHECK (pending IN (0, 1)), -- 1: invited
  since       INTEGER NOT NULL, -- when the holder came: a change of state keeps it
  at          INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL, -- 9223372036854775807: it does not end by itself
  released_at INTEGER NOT NULL, -- 0: held
  PRIMARY KEY (customer, env, feature, holder, n)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX seat_held ON seat (customer, env, feature, holder) WHERE released_at = 0; -- one open seat for each holder
-- Seats that end by themselves, which are few.
CREATE INDEX seat_ending ON seat (customer, env, expires_at) WHERE released_at = 0 AND expires_at < 9223372036854775807;

-- What was given back, by what it was given back of (S16): a take's key with
-- source '', or an event's id and source.
CREATE TABLE correction (
  ref      TEXT    NOT NULL,
  source   TEXT    NOT NULL,
  env      TEXT    NOT NULL,
  key      TEXT    NOT NULL, -- idempotency key of the correction itself
  customer TEXT    NOT NULL,
  feature  TEXT    NOT NULL,
  amount   INTEGER NOT NULL CHECK (amount > 0), -- given back, in smallest units
  at       INTEGER NOT NULL,
  reason   TEXT    NOT NULL,
  actor    TEXT    NOT NULL,
  entries  BLOB    NOT NULL, -- negative ones, in the ledger's form
  PRIMARY KEY (ref, source, env, key)
) STRICT;

-- What was denied, or would have been, per hour (S26).
CREATE TABLE denial (
  customer TEXT    NOT NULL,
  env      TEXT    NOT NULL,
  feature  TEXT    NOT NULL,
  hour_at  INTEGER NOT NULL, -- start of the hour
  outcome  TEXT    NOT NULL, -- denied, warned, shadowed, excess
  reason   TEXT    NOT NULL,
  n        INTEGER NOT NULL CHECK (n > 0),
  amount   INTEGER NOT NULL CHECK (amount >= 0), -- what was asked for, in smallest units; stops at the largest number
  PRIMARY KEY (customer, env, feature, hour_at, outcome, reason)
) STRICT, WITHOUT ROWID;
CREATE INDEX denial_hour ON denial (env, hour_at); -- the report reads all customers of some hours

-- The ledger of takes whose answers are no longer kept, added up per minute
-- (S13). With op and event it is the whole of what was taken.
CREATE TABLE folded (
  customer  TEXT    NOT NULL,
  env       TEXT    NOT NULL,
  feature   TEXT    NOT NULL,
  clock     TEXT    NOT NULL,
  start_at  INTEGER NOT NULL, -- of the bucket's window
  minute_at INTEGER NOT NULL,
  amount    INTEGER NOT NULL, -- smallest units
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

-- Keys of programs. The secret is shown once and not stored.
CREATE TABLE api_key (
  id           TEXT    NOT NULL PRIMARY KEY,
  env          TEXT    NOT NULL,
  name         TEXT    NOT NULL, -- may be a person's: never in the audit log
  role         TEXT    NOT NULL,
  hash         BLOB    NOT NULL, -- SHA-256 of the secret
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER NOT NULL, -- 0: never
  revoked_at   INTEGER NOT NULL, -- 0: not
  last_used_at INTEGER NOT NULL  -- 0: never
) STRICT, WITHOUT ROWID;
