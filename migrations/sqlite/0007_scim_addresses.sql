-- Under which mail addresses people are found (S-60): clients match them by address. Folded as the filter folds them, at most 256
-- characters, so that what is found here is looked at once more. An empty text stands for an address that only usher itself can fold:
-- it is looked at each time, until the person is written again.
CREATE TABLE scim_addresses (
    address_ci TEXT NOT NULL,
    resource_pk BIGINT NOT NULL,
    PRIMARY KEY (address_ci, resource_pk)
) WITHOUT ROWID;

CREATE INDEX scim_addresses_of ON scim_addresses (resource_pk);

INSERT OR IGNORE INTO scim_addresses (address_ci, resource_pk)
SELECT CASE WHEN given.odd OR given.address GLOB '*[^ -~]*' THEN '' ELSE substr(lower(given.address), 1, 256) END, given.pk
FROM (
    SELECT r.pk AS pk, json_extract(e.value, '$.value') AS address, instr(r.doc, '\u0000') > 0 AS odd
    FROM scim_resources r, json_each(r.doc, '$.emails') e
    WHERE r.kind = 0 AND r.deleted_at IS NULL
) AS given
WHERE given.address IS NOT NULL;
