-- What operators were told in their room: one row a message, until it is a month old and taken out of the room. `over_at` is 0 while what
-- it is about lasts; `steps` are the ids of held steps that an answer to it approves, as JSON.
CREATE TABLE notices (
    event_id TEXT NOT NULL PRIMARY KEY,
    room_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    code TEXT NOT NULL,
    told_at BIGINT NOT NULL,
    over_at BIGINT NOT NULL,
    steps TEXT NOT NULL
);
