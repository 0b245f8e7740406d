-- Whose accounts usher locked; the record is JSON, because it is always read and written whole.
CREATE TABLE leavers (
    user_id TEXT NOT NULL PRIMARY KEY,
    record TEXT NOT NULL
);

-- What was last seen of people's attributes: keyed digests, as JSON.
CREATE TABLE attributes (
    user_id TEXT NOT NULL PRIMARY KEY,
    record TEXT NOT NULL
);

-- What operators ordered, until the loop has taken it in.
CREATE TABLE orders (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    what TEXT NOT NULL,
    given_at BIGINT NOT NULL,
    given_by TEXT NOT NULL
);

-- Every write, once. Rows are never deleted; a row that says "sent" is completed by what came of it.
CREATE TABLE audit (
    seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    done_at BIGINT NOT NULL,
    pass BIGINT NOT NULL,
    actor TEXT NOT NULL,
    action TEXT NOT NULL,
    place TEXT NOT NULL,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    was TEXT NOT NULL,
    became TEXT NOT NULL,
    result TEXT NOT NULL
);

CREATE INDEX audit_by_person ON audit (person);
