-- What usher remembers and Matrix cannot tell. Only BIGINT and TEXT: the types both databases share.
CREATE TABLE people (
    stable_id TEXT NOT NULL PRIMARY KEY,
    localpart TEXT NOT NULL
);

CREATE TABLE absences (
    stable_id TEXT NOT NULL PRIMARY KEY,
    since BIGINT NOT NULL,
    reads BIGINT NOT NULL,
    last_read BIGINT NOT NULL
);

CREATE TABLE group_memories (
    external_id TEXT NOT NULL PRIMARY KEY,
    stable_id TEXT NOT NULL,
    name TEXT NOT NULL,
    users TEXT NOT NULL
);

-- One row a rule; the users are a JSON list, because the set is always read and compared whole.
CREATE TABLE entitled (
    rule TEXT NOT NULL PRIMARY KEY,
    users TEXT NOT NULL
);

CREATE TABLE forgiven (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    event_id TEXT NOT NULL,
    PRIMARY KEY (room_id, user_id, event_id)
);

CREATE TABLE refusals (
    rule TEXT NOT NULL,
    user_id TEXT NOT NULL,
    code TEXT NOT NULL,
    retry_at BIGINT NOT NULL,
    PRIMARY KEY (rule, user_id)
);

-- Ordinal tells apart records that agree in everything else.
CREATE TABLE removals (
    done_at BIGINT NOT NULL,
    class TEXT NOT NULL,
    place TEXT NOT NULL,
    person TEXT NOT NULL,
    ordinal BIGINT NOT NULL,
    space_base BIGINT NOT NULL,
    total_base BIGINT NOT NULL,
    PRIMARY KEY (done_at, class, place, person, ordinal)
);

CREATE TABLE approvals (
    step_id TEXT NOT NULL PRIMARY KEY,
    until BIGINT NOT NULL,
    approved_by TEXT NOT NULL DEFAULT ''
);

CREATE TABLE facts (
    name TEXT NOT NULL PRIMARY KEY,
    value TEXT NOT NULL
);
