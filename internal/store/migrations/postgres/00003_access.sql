-- +goose Up
-- Who a customer's people are and what they may do. Rows are dated as those of
-- 00002 are: what was known from recorded_from on, up to recorded_until.

ALTER TABLE api_key ADD COLUMN customer TEXT COLLATE "C" NOT NULL DEFAULT '';
ALTER TABLE api_key ADD COLUMN no_properties BIGINT NOT NULL DEFAULT 0;

-- The revision of the newest change to a customer's directory; what changes it
-- says what it was computed from.
ALTER TABLE customer ADD COLUMN access_revision BIGINT NOT NULL DEFAULT 0;

-- The people and programs of a customer.
CREATE TABLE member (
  env            TEXT COLLATE "C"    NOT NULL,
  customer       TEXT COLLATE "C"    NOT NULL,
  id             TEXT COLLATE "C"    NOT NULL,
  active         BIGINT NOT NULL CHECK (active IN (0, 1)),
  user_name      TEXT COLLATE "C"    NOT NULL, -- the property userName in lower case; empty: none
  external_id    TEXT COLLATE "C"    NOT NULL, -- the property externalId; empty: none
  body           TEXT    NOT NULL, -- JSON of usher.Member
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX member_now ON member (customer, env, id) WHERE recorded_until IS NULL; -- one current row for each id
-- SCIM finds members by these two.
CREATE INDEX member_user_name ON member (customer, env, user_name) WHERE recorded_until IS NULL AND user_name <> '';
CREATE INDEX member_external_id ON member (customer, env, external_id) WHERE recorded_until IS NULL AND external_id <> '';
CREATE INDEX member_then ON member (customer, env, id, recorded_from); -- as known at a revision
CREATE INDEX member_by_id ON member (id, env) WHERE recorded_until IS NULL; -- whose is it?

-- Groups of members and groups.
CREATE TABLE groups (
  env            TEXT COLLATE "C"    NOT NULL,
  customer       TEXT COLLATE "C"    NOT NULL,
  id             TEXT COLLATE "C"    NOT NULL,
  name           TEXT COLLATE "C"    NOT NULL, -- the title in lower case
  external_id    TEXT COLLATE "C"    NOT NULL, -- the property externalId; empty: none
  body           TEXT    NOT NULL, -- JSON of usher.Group
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX groups_now ON groups (customer, env, id) WHERE recorded_until IS NULL; -- one current row for each id
CREATE INDEX groups_name ON groups (customer, env, name) WHERE recorded_until IS NULL; -- SCIM finds groups by it

-- Who is directly in which group.
CREATE TABLE membership (
  env            TEXT COLLATE "C"    NOT NULL,
  customer       TEXT COLLATE "C"    NOT NULL,
  grp            TEXT COLLATE "C"    NOT NULL, -- "group" is a word of SQL
  is_group       BIGINT NOT NULL CHECK (is_group IN (0, 1)), -- what is in it
  holder         TEXT COLLATE "C"    NOT NULL,
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX membership_now ON membership (customer, env, grp, is_group, holder) WHERE recorded_until IS NULL; -- each once
CREATE INDEX membership_holder ON membership (customer, env, holder, is_group, recorded_until); -- which groups is it in, now and then?

-- Roles that the customer defined itself.
CREATE TABLE custom_role (
  env            TEXT COLLATE "C"    NOT NULL,
  customer       TEXT COLLATE "C"    NOT NULL,
  id             TEXT COLLATE "C"    NOT NULL, -- the role's key
  body           TEXT    NOT NULL, -- JSON of usher.Role
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX custom_role_now ON custom_role (customer, env, id) WHERE recorded_until IS NULL; -- one current row for each key

-- Which member or group has which role, from when until when.
CREATE TABLE assignment (
  env            TEXT COLLATE "C"    NOT NULL,
  customer       TEXT COLLATE "C"    NOT NULL,
  id             TEXT COLLATE "C"    NOT NULL,
  is_group       BIGINT NOT NULL CHECK (is_group IN (0, 1)), -- 1: holder is a group
  holder         TEXT COLLATE "C"    NOT NULL,
  role           TEXT COLLATE "C"    NOT NULL,
  resource_type  TEXT COLLATE "C"    NOT NULL, -- '': on everything of the customer
  resource_id    TEXT COLLATE "C"    NOT NULL,
  from_at        BIGINT NOT NULL,
  until_at       BIGINT NOT NULL, -- 9223372036854775807: no end
  body           TEXT    NOT NULL, -- JSON of usher.Assignment
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX assignment_now ON assignment (customer, env, id) WHERE recorded_until IS NULL; -- one current row for each id
CREATE INDEX assignment_holder ON assignment (customer, env, holder, is_group, recorded_until); -- what does a holder have, now and then?
CREATE INDEX assignment_role ON assignment (customer, env, role) WHERE recorded_until IS NULL; -- who has this role?

-- What roles can be given on.
CREATE TABLE resource (
  env            TEXT COLLATE "C"    NOT NULL,
  customer       TEXT COLLATE "C"    NOT NULL,
  type           TEXT COLLATE "C"    NOT NULL,
  id             TEXT COLLATE "C"    NOT NULL,
  body           TEXT    NOT NULL, -- JSON of usher.Resource
  recorded_from  BIGINT NOT NULL,
  recorded_until BIGINT CHECK (recorded_until > recorded_from)
);
CREATE UNIQUE INDEX resource_now ON resource (customer, env, type, id) WHERE recorded_until IS NULL; -- one current row for each id
CREATE INDEX resource_then ON resource (customer, env, type, id, recorded_from); -- as known at a revision
CREATE INDEX resource_by_id ON resource (id, type, env) WHERE recorded_until IS NULL;

-- 1: a role took the seat, and gives it back when it goes.
ALTER TABLE seat ADD COLUMN by_role BIGINT NOT NULL DEFAULT 0;
CREATE INDEX seat_of ON seat (customer, env, holder) WHERE released_at = 0; -- a member's seats

-- 1: the change is to a customer's directory, and touches nothing that it bought.
ALTER TABLE change ADD COLUMN access BIGINT NOT NULL DEFAULT 0;
