-- +goose Up
-- Types of events that were accepted although no meter read them: those seen last.
CREATE TABLE unmatched (
  env     TEXT COLLATE "C" NOT NULL,
  type    TEXT COLLATE "C" NOT NULL,
  n       BIGINT NOT NULL CHECK (n > 0),
  last_at BIGINT NOT NULL, -- when the newest was received
  source  TEXT COLLATE "C" NOT NULL, -- of the newest
  PRIMARY KEY (env, type)
);
