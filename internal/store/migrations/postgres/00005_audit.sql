-- +goose Up
-- The audit log: one for the installation. leaf is exactly the bytes that are
-- hashed; the columns beside it are for finding rows and say the same. Rows are
-- added, never changed: the triggers refuse it, and hashes show a change that
-- was made without them.

CREATE TABLE audit (
  n        BIGINT           NOT NULL PRIMARY KEY CHECK (n >= 0), -- dense, from 0
  leaf     BYTEA            NOT NULL,
  at       BIGINT           NOT NULL, -- the server's time
  env      TEXT COLLATE "C" NOT NULL, -- '': the installation
  actor    TEXT COLLATE "C" NOT NULL,
  action   TEXT COLLATE "C" NOT NULL,
  customer TEXT COLLATE "C" NOT NULL, -- '': none
  object   TEXT COLLATE "C" NOT NULL
);
CREATE INDEX audit_customer ON audit (customer, env, n) WHERE customer <> '';
CREATE INDEX audit_action ON audit (action, n);
CREATE INDEX audit_actor ON audit (actor, n);
CREATE INDEX audit_object ON audit (object, n);
CREATE INDEX audit_at ON audit (at, n);
CREATE UNIQUE INDEX audit_hour ON audit (env, object) WHERE action = 'usage.hour'; -- one node adds it

-- Hashes of whole subtrees, in the order in which the tree grows.
CREATE TABLE audit_hash (
  i    BIGINT NOT NULL PRIMARY KEY CHECK (i >= 0), -- the tree's own order: after each leaf the subtrees that it completes
  hash BYTEA  NOT NULL CHECK (length(hash) = 32)
);

-- Where the log stands: replaced with every row, in its transaction.
CREATE TABLE audit_head (
  one  BIGINT           NOT NULL PRIMARY KEY CHECK (one = 1),
  size BIGINT           NOT NULL CHECK (size >= 0),
  root BYTEA            NOT NULL,
  note TEXT             NOT NULL, -- the signed checkpoint
  key  TEXT COLLATE "C" NOT NULL  -- the public key that signed it; '': nothing is signed yet
) WITH (fillfactor = 50);
INSERT INTO audit_head (one, size, root, note, key) VALUES (1, 0, '', '', '');

-- The private key, where it was not given from outside.
CREATE TABLE audit_key (
  one     BIGINT NOT NULL PRIMARY KEY CHECK (one = 1),
  private TEXT   NOT NULL
);

-- +goose StatementBegin
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit log is append-only';
END $$;
-- +goose StatementEnd
-- +goose StatementBegin
CREATE FUNCTION audit_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NEW.size <= OLD.size THEN
    RAISE EXCEPTION 'the audit log is append-only';
  END IF;
  RETURN NEW;
END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_rows BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_all BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_hash_rows BEFORE UPDATE OR DELETE ON audit_hash FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_hash_all BEFORE TRUNCATE ON audit_hash FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_head_grows BEFORE UPDATE ON audit_head FOR EACH ROW EXECUTE FUNCTION audit_grows();
CREATE TRIGGER audit_head_rows BEFORE DELETE ON audit_head FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_head_all BEFORE TRUNCATE ON audit_head FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only();

-- Rows are written in about the order of their time: this finds an hour's
-- without an index that every take would have to keep.
CREATE INDEX op_at ON op USING brin (at);
CREATE INDEX event_received ON event USING brin (received_at);
