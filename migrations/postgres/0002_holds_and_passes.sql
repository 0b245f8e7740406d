-- What the latest pass held; the steps are a JSON list.
CREATE TABLE holds (
    id TEXT NOT NULL PRIMARY KEY,
    class TEXT NOT NULL,
    detail TEXT NOT NULL,
    first_held_at BIGINT NOT NULL,
    steps TEXT NOT NULL
);

CREATE TABLE passes (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    started BIGINT NOT NULL,
    ended BIGINT NOT NULL,
    cause TEXT NOT NULL,
    counts TEXT NOT NULL,
    result TEXT NOT NULL
);

CREATE INDEX passes_by_start ON passes (started);
