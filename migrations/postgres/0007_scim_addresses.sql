-- Under which mail addresses people are found (S-60): clients match them by address. Folded as the filter folds them, at most 256
-- characters, so that what is found here is looked at once more. An empty text stands for an address that only usher itself can fold:
-- it is looked at each time, until the person is written again.
CREATE TABLE scim_addresses (
    address_ci TEXT NOT NULL,
    resource_pk BIGINT NOT NULL,
    PRIMARY KEY (address_ci, resource_pk)
);

CREATE INDEX scim_addresses_of ON scim_addresses (resource_pk);

INSERT INTO scim_addresses (address_ci, resource_pk)
SELECT CASE WHEN given.address ~ '[^ -~]' COLLATE "C" THEN '' ELSE substr(lower(given.address), 1, 256) END, given.pk
FROM (
    SELECT r.pk AS pk, e.value ->> 'value' AS address
    FROM scim_resources r,
        json_array_elements(CASE WHEN strpos(r.doc, '\u0000') = 0 THEN r.doc::json -> 'emails' END) e
    WHERE r.kind = 0 AND r.deleted_at IS NULL
) AS given
WHERE given.address IS NOT NULL
ON CONFLICT DO NOTHING;

-- PostgreSQL cannot take a text with \u0000 in it apart.
INSERT INTO scim_addresses (address_ci, resource_pk)
SELECT '', r.pk FROM scim_resources r WHERE r.kind = 0 AND r.deleted_at IS NULL AND strpos(r.doc, '\u0000') > 0
ON CONFLICT DO NOTHING;
