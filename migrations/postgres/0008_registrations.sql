-- Whether somebody's account was ever usable, as far as they were told: the first time is their registration, later ones are not.
ALTER TABLE scim_resources ADD COLUMN used BIGINT NOT NULL DEFAULT 1;

CREATE INDEX scim_stable_ids ON scim_resources (client, stable_id) WHERE deleted_at IS NULL;
-- Who comes back is taken from among the deleted without looking at all of them.
CREATE INDEX scim_deleted_stable_ids ON scim_resources (client, stable_id) WHERE deleted_at IS NOT NULL;

-- Accounts that were ordered for people whom a SCIM client made (S-63), one row a person, kept for good: no account is ordered twice.
-- state: waiting, sent (the homeserver may have made it), made, found (there was one), refused (cause says why). Of somebody who is
-- inactive or deleted an order waits until they are active.
CREATE TABLE scim_registrations (
    client TEXT NOT NULL,
    stable_id TEXT NOT NULL,
    localpart TEXT NOT NULL,
    state TEXT NOT NULL,
    queued_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL,
    due_at BIGINT NOT NULL,
    cause TEXT NOT NULL,
    PRIMARY KEY (client, stable_id)
);

CREATE INDEX scim_registrations_due ON scim_registrations (client, state, due_at);
CREATE INDEX scim_registrations_states ON scim_registrations (state);
