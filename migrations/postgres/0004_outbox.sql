-- Letters to people. Address and name are emptied once a letter was sent or given up; the row stays, so that the same change is not
-- told twice. `due_at` of a letter that ended is when it did.
CREATE TABLE outbox (
    id TEXT NOT NULL PRIMARY KEY,
    occasion TEXT NOT NULL,
    address TEXT NOT NULL,
    display_name TEXT NOT NULL,
    user_id TEXT NOT NULL,
    queued_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    cause TEXT NOT NULL
);

CREATE INDEX outbox_due ON outbox (state, due_at);
