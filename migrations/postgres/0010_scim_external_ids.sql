-- A user's external id stands in an index already, the one that keeps it from being given twice.
DROP INDEX scim_external_ids;
CREATE INDEX scim_group_external_ids ON scim_resources (client, kind, external_id) WHERE deleted_at IS NULL AND kind = 1;
