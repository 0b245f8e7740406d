//! The schemas themselves: RFC 7643 sections 3.1, 4.1, 4.2 and 4.3. A password is not among them: usher keeps none.

use super::{Attribute, Mutability, Returned, Schema, Type};

const fn attribute(name: &'static str, kind: Type, description: &'static str) -> Attribute {
    Attribute {
        name,
        kind,
        description,
        many: false,
        required: false,
        case_exact: false,
        unique: false,
        mutability: Mutability::ReadWrite,
        returned: Returned::Default,
        canonical: &[],
        refers: &[],
        sub: &[],
    }
}

const fn text(name: &'static str, description: &'static str) -> Attribute {
    attribute(name, Type::Text, description)
}

const fn flag(name: &'static str, description: &'static str) -> Attribute {
    attribute(name, Type::Boolean, description)
}

const fn reference(name: &'static str, refers: &'static [&'static str], description: &'static str) -> Attribute {
    let mut reference = attribute(name, Type::Reference, description);
    reference.refers = refers;
    reference.case_exact = true;
    reference
}

const fn complex(name: &'static str, sub: &'static [Attribute], description: &'static str) -> Attribute {
    let mut complex = attribute(name, Type::Complex, description);
    complex.sub = sub;
    complex
}

const fn several(name: &'static str, sub: &'static [Attribute], description: &'static str) -> Attribute {
    complex(name, sub, description).many()
}

impl Attribute {
    const fn many(mut self) -> Self {
        self.many = true;
        self
    }

    const fn exact(mut self) -> Self {
        self.case_exact = true;
        self
    }

    const fn required(mut self) -> Self {
        self.required = true;
        self
    }

    const fn unique(mut self) -> Self {
        self.unique = true;
        self
    }

    const fn read_only(mut self) -> Self {
        self.mutability = Mutability::ReadOnly;
        self
    }

    const fn immutable(mut self) -> Self {
        self.mutability = Mutability::Immutable;
        self
    }

    const fn always(mut self) -> Self {
        self.returned = Returned::Always;
        self
    }

    const fn among(mut self, canonical: &'static [&'static str]) -> Self {
        self.canonical = canonical;
        self
    }
}

const DISPLAY: Attribute = text("display", "For people to read");
const PRIMARY: Attribute = flag("primary", "Whether it is the preferred one; at most one is");

const fn label(canonical: &'static [&'static str]) -> Attribute {
    text("type", "What it is used for").among(canonical)
}

const NAME: &[Attribute] = &[
    text("formatted", "The whole name as it is shown"),
    text("familyName", "Family name"),
    text("givenName", "Given name"),
    text("middleName", "Middle names"),
    text("honorificPrefix", "Title before the name"),
    text("honorificSuffix", "Title behind the name"),
];

const EMAIL: &[Attribute] = &[text("value", "E-mail address"), DISPLAY, label(&["work", "home", "other"]), PRIMARY];
const PHONE: &[Attribute] =
    &[text("value", "Telephone number"), DISPLAY, label(&["work", "home", "mobile", "fax", "pager", "other"]), PRIMARY];
const IM: &[Attribute] = &[
    text("value", "Instant messaging address"),
    DISPLAY,
    label(&["aim", "gtalk", "icq", "xmpp", "msn", "skype", "qq", "yahoo"]),
    PRIMARY,
];
const PHOTO: &[Attribute] =
    &[reference("value", &["external"], "URL of a photo"), DISPLAY, label(&["photo", "thumbnail"]), PRIMARY];
const ADDRESS: &[Attribute] = &[
    text("formatted", "The whole address as it is shown"),
    text("streetAddress", "Street and number"),
    text("locality", "City"),
    text("region", "State or region"),
    text("postalCode", "Postal code"),
    text("country", "Country"),
    label(&["work", "home", "other"]),
    PRIMARY,
];
const LABELLED: &[Attribute] = &[text("value", "The value"), DISPLAY, label(&[]), PRIMARY];
const CERTIFICATE: &[Attribute] =
    &[attribute("value", Type::Binary, "DER-encoded certificate, in base64").exact(), DISPLAY, label(&[]), PRIMARY];
const MEMBERSHIP: &[Attribute] = &[
    text("value", "Id of the group").exact().read_only(),
    reference("$ref", &["Group"], "URL of the group").read_only(),
    text("display", "The group's name").read_only(),
    text("type", "Whether it is direct").among(&["direct", "indirect"]).read_only(),
];

/// RFC 7643 section 4.1.
pub static USER: Schema = Schema {
    urn: "urn:ietf:params:scim:schemas:core:2.0:User",
    name: "User",
    description: "A person",
    attributes: &[
        text("userName", "Unique name of the person").required().unique(),
        complex("name", NAME, "The parts of the name"),
        text("displayName", "The name that is shown"),
        text("nickName", "How the person is called"),
        reference("profileUrl", &["external"], "URL of a page about the person"),
        text("title", "Title, such as Vice President"),
        text("userType", "Relation to the organisation"),
        text("preferredLanguage", "Preferred language"),
        text("locale", "For formats of dates and numbers"),
        text("timezone", "Time zone"),
        flag("active", "Whether the person may use Matrix"),
        several("emails", EMAIL, "E-mail addresses"),
        several("phoneNumbers", PHONE, "Telephone numbers"),
        several("ims", IM, "Instant messaging addresses"),
        several("photos", PHOTO, "Photos"),
        several("addresses", ADDRESS, "Postal addresses"),
        several("groups", MEMBERSHIP, "Groups the person is a member of").read_only(),
        several("entitlements", LABELLED, "Entitlements"),
        several("roles", LABELLED, "Roles"),
        several("x509Certificates", CERTIFICATE, "Certificates"),
    ],
};

const MANAGER: &[Attribute] = &[
    text("value", "Id of the manager").exact(),
    reference("$ref", &["User"], "URL of the manager"),
    text("displayName", "Name of the manager, as the client gave it"),
];

/// RFC 7643 section 4.3.
pub static ENTERPRISE: Schema = Schema {
    urn: "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User",
    name: "EnterpriseUser",
    description: "A person in an organisation",
    attributes: &[
        text("employeeNumber", "Number or code of the person"),
        text("costCenter", "Cost centre"),
        text("organization", "Organisation"),
        text("division", "Division"),
        text("department", "Department"),
        complex("manager", MANAGER, "The person's manager"),
    ],
};

/// What users have besides the core.
pub static OF_USERS: &[&Schema] = &[&ENTERPRISE];

const MEMBER: &[Attribute] = &[
    text("value", "Id of the member").exact().immutable(),
    reference("$ref", &["User", "Group"], "URL of the member").read_only(),
    text("type", "What the member is").among(&["User", "Group"]).read_only(),
];

/// RFC 7643 section 4.2.
pub static GROUP: Schema = Schema {
    urn: "urn:ietf:params:scim:schemas:core:2.0:Group",
    name: "Group",
    description: "A group of people",
    attributes: &[
        text("displayName", "The group's name").required(),
        several("members", MEMBER, "People and groups in the group"),
    ],
};

const META: &[Attribute] = &[
    text("resourceType", "What it is").exact().read_only(),
    attribute("created", Type::DateTime, "When it was made").read_only(),
    attribute("lastModified", Type::DateTime, "When it was changed last").read_only(),
    reference("location", &["uri"], "Its URL").read_only(),
    text("version", "Its entity tag").exact().read_only(),
];

/// RFC 7643 section 3.1: what every resource has, whatever its schema.
pub static COMMON: &[Attribute] = &[
    reference("schemas", &["uri"], "The schemas it follows").many().read_only().always(),
    text("id", "Given by the server").exact().read_only().always(),
    text("externalId", "Given by the client").exact(),
    complex("meta", META, "About the resource").read_only(),
];
