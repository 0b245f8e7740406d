-- What SCIM clients provision (S-60 to S-65). One set of resources for each client.id.

-- Whether there is news: revision counts every change, urgent is the revision of the last deactivation or deletion.
CREATE TABLE scim_clients (
    client TEXT NOT NULL PRIMARY KEY,
    revision BIGINT NOT NULL,
    urgent BIGINT NOT NULL,
    changed_at BIGINT NOT NULL
);

-- Users (kind 0) and groups (kind 1). The attributes are in doc, as JSON; the columns beside it are what is looked up, folded where
-- the attribute is not case-exact. A deleted user leaves a row without attributes: whose Matrix name it was.
CREATE TABLE scim_resources (
    pk BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client TEXT NOT NULL,
    kind BIGINT NOT NULL,
    id TEXT NOT NULL UNIQUE,
    user_ci TEXT,
    display_ci TEXT,
    external_id TEXT,
    localpart TEXT,
    stable_id TEXT NOT NULL,
    active BIGINT NOT NULL,
    doc TEXT NOT NULL,
    version BIGINT NOT NULL,
    created BIGINT NOT NULL,
    modified BIGINT NOT NULL,
    deleted_at BIGINT
);

CREATE UNIQUE INDEX scim_user_names ON scim_resources (client, user_ci) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX scim_user_external_ids ON scim_resources (client, external_id) WHERE deleted_at IS NULL AND kind = 0;
CREATE UNIQUE INDEX scim_localparts ON scim_resources (client, localpart) WHERE deleted_at IS NULL;
CREATE INDEX scim_in_order ON scim_resources (client, kind, pk) WHERE deleted_at IS NULL;
CREATE INDEX scim_display_names ON scim_resources (client, kind, display_ci) WHERE deleted_at IS NULL;
CREATE INDEX scim_external_ids ON scim_resources (client, kind, external_id) WHERE deleted_at IS NULL;
CREATE INDEX scim_deleted_localparts ON scim_resources (client, localpart) WHERE deleted_at IS NOT NULL;
CREATE INDEX scim_deleted_external_ids ON scim_resources (client, external_id) WHERE deleted_at IS NOT NULL;

-- One row a member: adding one costs the same whatever the size of the group (S-65). An id that is nobody's is kept as it was given
-- and stands for nobody.
CREATE TABLE scim_members (
    group_pk BIGINT NOT NULL,
    member_id TEXT NOT NULL,
    PRIMARY KEY (group_pk, member_id)
);

CREATE INDEX scim_memberships ON scim_members (member_id);
