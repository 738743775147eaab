-- +goose Up
-- Background work that one node at a time does for the whole database.
CREATE TABLE job (
  name         text   COLLATE "C" NOT NULL PRIMARY KEY,
  node         text   NOT NULL, -- that runs it or ran it last; '' is none
  lease_until  bigint NOT NULL, -- no other node runs it before; 0: no node runs it
  due_at       bigint NOT NULL,
  succeeded_at bigint NOT NULL, -- 0: never
  failed_at    bigint NOT NULL, -- 0: never
  failures     bigint NOT NULL CHECK (failures >= 0), -- since the last success
  error        text   NOT NULL  -- of the last failure
);
