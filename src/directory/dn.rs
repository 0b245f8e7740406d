//! Distinguished names in normal form (RFC 4514), so that two spellings of one entry compare equal as strings.
//!
//! The normal form has lower-case attribute types under their short names, values folded as directories compare them
//! (case, outer and repeated blanks, compatibility forms), the pairs of a multi-valued RDN sorted, and every special character
//! as `\xx`. A comma in a normal form is therefore always a boundary between two RDNs: [`parent`] and [`is_within`] rely on it.
//! Pure; never asks a server, and folds every type alike (two entries it would confuse have two stable ids and are seen to).

use std::fmt::Write as _;

use unicode_normalization::UnicodeNormalization as _;

/// One `type=value` pair. The value is unescaped, not folded, and need not be UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pair {
    /// Short name in lower case: `cn`, `ou`, `dc`.
    pub kind: String,
    pub value: Vec<u8>,
}

/// Short names of the types RFC 4514 section 3 and the common schemas name more than one way.
const SHORT_NAMES: [(&str, &str); 20] = [
    ("0.9.2342.19200300.100.1.1", "uid"),
    ("0.9.2342.19200300.100.1.25", "dc"),
    ("2.5.4.10", "o"),
    ("2.5.4.11", "ou"),
    ("2.5.4.3", "cn"),
    ("2.5.4.4", "sn"),
    ("2.5.4.6", "c"),
    ("2.5.4.7", "l"),
    ("2.5.4.8", "st"),
    ("2.5.4.9", "street"),
    ("commonname", "cn"),
    ("countryname", "c"),
    ("domaincomponent", "dc"),
    ("localityname", "l"),
    ("organizationalunitname", "ou"),
    ("organizationname", "o"),
    ("stateorprovincename", "st"),
    ("streetaddress", "street"),
    ("surname", "sn"),
    ("userid", "uid"),
];

/// The normal form of `dn`, or `None` if it is not a DN. The empty DN is its own normal form.
#[must_use]
pub fn normalise(dn: &str) -> Option<String> {
    if is_plain(dn) {
        return normalise_plain(dn);
    }
    let rdns = parse(dn)?;
    let mut out = String::with_capacity(dn.len() + 8);
    for mut rdn in rdns {
        if !out.is_empty() {
            out.push(',');
        }
        let mut pairs: Vec<String> = rdn.drain(..).map(|pair| normal_pair(&pair)).collect();
        pairs.sort();
        pairs.dedup();
        out.push_str(&pairs.join("+"));
    }
    Some(out)
}

/// Normalises one DN after the other, quickly where they share what is above them, as the members of a group do.
#[derive(Debug, Default)]
pub struct Normaliser {
    /// What was above the last plain DN, as written and in normal form; empty if there is none to compare with.
    above: String,
    above_normal: String,
    normal: String,
}

impl Normaliser {
    /// What [`normalise`] says, borrowed until the next call.
    pub fn normalise(&mut self, dn: &str) -> Option<&str> {
        self.normal.clear();
        match dn.split_once(',') {
            Some((first, above)) if !above.is_empty() && above == self.above && is_plain(first) => {
                push_plain(&mut self.normal, first)?;
                self.normal.push(',');
                self.normal.push_str(&self.above_normal);
            }
            _ if is_plain(dn) => {
                self.above.clear();
                push_all_plain(&mut self.normal, dn)?;
                if let (Some((_, above)), Some(above_normal)) = (dn.split_once(','), parent(&self.normal)) {
                    self.above.push_str(above);
                    self.above_normal.clear();
                    self.above_normal.push_str(above_normal);
                }
            }
            _ => self.normal = normalise(dn)?,
        }
        Some(&self.normal)
    }
}

/// The DN above a normal form; `None` above a single RDN.
#[must_use]
pub fn parent(normal: &str) -> Option<&str> {
    normal.split_once(',').map(|(_, above)| above)
}

/// Whether the normal form `dn` is `base` or lies below it. Everything lies below the empty base.
#[must_use]
pub fn is_within(dn: &str, base: &str) -> bool {
    if base.is_empty() || dn == base {
        return true;
    }
    dn.strip_suffix(base).is_some_and(|rest| rest.ends_with(','))
}

/// The RDNs of `dn`, leftmost first, as written apart from escapes; `None` if it is not a DN.
///
/// Besides RFC 4514 it takes what servers still hand out from RFC 1779: quoted values, `;` as a separator, blanks around both.
#[must_use]
pub fn parse(dn: &str) -> Option<Vec<Vec<Pair>>> {
    let mut reader = Reader { bytes: dn.as_bytes(), at: 0 };
    reader.skip_blanks();
    if reader.peek().is_none() {
        return Some(Vec::new());
    }
    let mut rdns = vec![Vec::new()];
    loop {
        let kind = reader.kind()?;
        let value = reader.value()?;
        if let Some(rdn) = rdns.last_mut() {
            rdn.push(Pair { kind, value });
        }
        match reader.next() {
            None => return Some(rdns),
            Some(b'+') => {}
            Some(_) => rdns.push(Vec::new()),
        }
    }
}

/// A DN without escapes, quotes, several pairs in an RDN, or anything beyond ASCII: nearly all of them, and the quick path.
fn is_plain(dn: &str) -> bool {
    dn.bytes()
        .all(|byte| (b' '..=b'~').contains(&byte) && !matches!(byte, b'\\' | b'"' | b';' | b'+' | b'#' | b'<' | b'>'))
}

fn normalise_plain(dn: &str) -> Option<String> {
    let mut out = String::with_capacity(dn.len());
    push_all_plain(&mut out, dn)?;
    Some(out)
}

fn push_all_plain(out: &mut String, dn: &str) -> Option<()> {
    if dn.trim_matches(' ').is_empty() {
        return Some(());
    }
    for rdn in dn.split(',') {
        if !out.is_empty() {
            out.push(',');
        }
        push_plain(out, rdn)?;
    }
    Some(())
}

/// One plain RDN.
fn push_plain(out: &mut String, rdn: &str) -> Option<()> {
    let (kind, value) = rdn.split_once('=')?;
    push_kind(out, kind.trim_matches(' '))?;
    out.push('=');
    let start = out.len();
    for word in value.split(' ').filter(|word| !word.is_empty()) {
        if out.len() > start {
            out.push(' ');
        }
        push_lowered(out, word);
    }
    Some(())
}

fn push_lowered(out: &mut String, text: &str) {
    let start = out.len();
    out.push_str(text);
    out[start..].make_ascii_lowercase();
}

/// Types shorter than this have no other form: `oid.1` is the shortest that has one.
const SHORTEST_WITH_ANOTHER: usize = 5;

fn push_kind(out: &mut String, kind: &str) -> Option<()> {
    let well_formed = kind.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'));
    if kind.is_empty() || !well_formed {
        return None;
    }
    let start = out.len();
    push_lowered(out, kind);
    if kind.len() < SHORTEST_WITH_ANOTHER {
        return Some(());
    }
    if out[start..].starts_with("oid.") {
        out.replace_range(start..start + 4, "");
    }
    if let Some((_, short)) = SHORT_NAMES.iter().find(|(long, _)| *long == &out[start..]) {
        out.truncate(start);
        out.push_str(short);
    }
    Some(())
}

fn normal_pair(pair: &Pair) -> String {
    let mut out = format!("{}=", pair.kind);
    match std::str::from_utf8(&pair.value) {
        Ok(text) => push_escaped(&mut out, &fold(text)),
        Err(_) => pair.value.iter().for_each(|byte| {
            let _ = write!(out, "\\{byte:02x}");
        }),
    }
    out
}

/// Folds as the caseIgnoreMatch of RFC 4518 does, near enough: compatibility composition, lower case, blanks.
fn fold(text: &str) -> String {
    let lowered: String = text.nfkc().flat_map(char::to_lowercase).collect();
    let composed: String = lowered.nfkc().collect();
    let words: Vec<&str> = composed.split_whitespace().collect();
    words.join(" ")
}

fn push_escaped(out: &mut String, value: &str) {
    for (at, letter) in value.char_indices() {
        let special = matches!(letter, ',' | '+' | '"' | '\\' | ';' | '<' | '>') || letter.is_ascii_control();
        if special || (at == 0 && letter == '#') {
            let _ = write!(out, "\\{:02x}", u32::from(letter));
        } else {
            out.push(letter);
        }
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u8> {
        let byte = self.peek()?;
        self.at += 1;
        Some(byte)
    }

    fn skip_blanks(&mut self) {
        while self.peek() == Some(b' ') {
            self.at += 1;
        }
    }

    /// Everything up to and with the `=`.
    fn kind(&mut self) -> Option<String> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().position(|byte| *byte == b'=')?;
        let written = std::str::from_utf8(&rest[..length]).ok()?;
        let mut kind = String::new();
        push_kind(&mut kind, written.trim_matches(' '))?;
        self.at += length + 1;
        Some(kind)
    }

    /// The value, stopping at (not after) the separator that ends it.
    fn value(&mut self) -> Option<Vec<u8>> {
        self.skip_blanks();
        match self.peek() {
            Some(b'#') => self.hex_value(),
            Some(b'"') => self.quoted_value(),
            _ => self.bare_value(),
        }
    }

    fn bare_value(&mut self) -> Option<Vec<u8>> {
        let mut value = Vec::new();
        // Blanks at the end are insignificant unless escaped.
        let mut kept = 0;
        while let Some(byte) = self.peek() {
            match byte {
                b',' | b';' | b'+' => break,
                b'\\' => {
                    self.at += 1;
                    value.push(self.escaped()?);
                    kept = value.len();
                }
                b'"' => return None,
                _ => {
                    self.at += 1;
                    value.push(byte);
                    if byte != b' ' {
                        kept = value.len();
                    }
                }
            }
        }
        value.truncate(kept);
        Some(value)
    }

    fn quoted_value(&mut self) -> Option<Vec<u8>> {
        self.at += 1;
        let mut value = Vec::new();
        loop {
            match self.next()? {
                b'"' => break,
                b'\\' => value.push(self.escaped()?),
                byte => value.push(byte),
            }
        }
        self.at_separator().then_some(value)
    }

    /// `#` and the BER encoding in hexadecimal; the value is the content where it is a string, else the text as written.
    fn hex_value(&mut self) -> Option<Vec<u8>> {
        let start = self.at;
        self.at += 1;
        let mut encoded = Vec::new();
        while let (Some(high), Some(low)) = (self.hex_digit(0), self.hex_digit(1)) {
            encoded.push(high << 4 | low);
            self.at += 2;
        }
        let written = self.bytes[start..self.at].to_ascii_lowercase();
        if encoded.is_empty() || !self.at_separator() {
            return None;
        }
        match encoded.as_slice() {
            [0x04 | 0x0c | 0x13 | 0x14 | 0x16, length, content @ ..] if usize::from(*length) == content.len() => {
                Some(content.to_vec())
            }
            _ => Some(written),
        }
    }

    fn hex_digit(&self, ahead: usize) -> Option<u8> {
        let digit = char::from(*self.bytes.get(self.at + ahead)?).to_digit(16)?;
        u8::try_from(digit).ok()
    }

    /// What follows a backslash: two hexadecimal digits, or any one character.
    fn escaped(&mut self) -> Option<u8> {
        if let (Some(high), Some(low)) = (self.hex_digit(0), self.hex_digit(1)) {
            self.at += 2;
            return Some(high << 4 | low);
        }
        self.next()
    }

    fn at_separator(&mut self) -> bool {
        self.skip_blanks();
        matches!(self.peek(), None | Some(b',' | b';' | b'+'))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn normal(dn: &str) -> String {
        normalise(dn).unwrap_or_else(|| panic!("{dn} is a DN"))
    }

    #[test]
    fn spellings_of_one_entry_meet() {
        let spellings = [
            ("cn=Doe\\2C Jane,ou=odd,dc=company", "CN=Doe\\, Jane, OU=Odd,DC=COMPANY"),
            ("cn=\"Doe, Jane\";ou=odd", "cn=doe\\2c jane,ou=odd"),
            ("2.5.4.3=x,0.9.2342.19200300.100.1.25=org", "CN=X,DC=ORG"),
            ("OID.2.5.4.11=x", "organizationalUnitName=x"),
            ("cn=a+uid=b,dc=org", "UID=B + CN=A, dc=org"),
            ("cn=#04024869", "cn=Hi"),
            ("cn=\\#1", "cn=\\231"),
            ("cn=Trail\\20,dc=org", "cn=trail,dc=org"),
            ("cn=J\\c3\\bcrgen", "CN=JÜRGEN"),
            ("cn=Ju\u{308}rgen", "cn=jürgen"),
            ("cn=a   b,dc=x", "cn=A B , dc=x"),
            ("cn=a\\+b", "cn=a\\2bb"),
            ("cn=q\\\"q\\;s\\\\", "cn=\"q\\\"q;s\\\\\""),
        ];
        for (one, other) in spellings {
            assert_eq!(normal(one), normal(other), "{one} and {other}");
        }
    }

    #[test]
    fn the_normal_form_is_as_documented() {
        assert_eq!(normal("CN=Doe\\, Jane,OU=Odd+L=Bonn,DC=Org"), "cn=doe\\2c jane,l=bonn+ou=odd,dc=org");
        assert_eq!(normal("cn=\\ff\\fe,dc=org"), "cn=\\ff\\fe,dc=org");
        assert_eq!(normal("cn=a=b"), "cn=a=b");
        assert_eq!(normal("cn=#0203010203"), "cn=\\230203010203");
        assert_eq!(normal(""), "");
    }

    #[test]
    fn what_is_no_dn_is_refused() {
        for text in [
            "people",
            "=x",
            "cn=a,",
            "cn=a,,dc=b",
            "cn=\"a",
            "cn=\"a\"b",
            "cn=a\\",
            "c n=x",
            "cn=#0",
            "cn=#zz",
            ",cn=a",
        ] {
            assert_eq!(normalise(text), None, "{text}");
        }
    }

    #[test]
    fn a_place_in_the_tree_is_found_by_whole_rdns() {
        let dn = normal("cn=a\\,dc=org,ou=x,dc=org");
        assert_eq!(parent(&dn), Some("ou=x,dc=org"));
        assert!(is_within(&dn, "dc=org"));
        assert!(is_within(&dn, ""));
        assert!(!is_within("dc=myorg", "dc=org"));
        assert!(!is_within("xdc=org", "dc=org"));
        assert_eq!(parent("dc=org"), None);
    }

    /// Escapes every byte of a value that is not a letter or digit, which RFC 4514 always allows.
    fn all_escaped(value: &str) -> String {
        value.bytes().fold(String::new(), |mut out, byte| {
            if byte.is_ascii_alphanumeric() {
                out.push(char::from(byte));
            } else {
                let _ = write!(out, "\\{byte:02X}");
            }
            out
        })
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(values in prop::collection::vec("\\PC{0,12}", 1..4)) {
            let written: Vec<String> = values.iter().map(|value| format!("CN={}", all_escaped(value))).collect();
            let once = normal(&written.join(", "));
            prop_assert_eq!(normal(&once), once.clone());
            prop_assert_eq!(once.split(',').count(), values.len());
        }

        #[test]
        fn escaping_and_case_do_not_matter(value in "[ -~]{0,16}", kind in "[a-z]{1,4}") {
            let escaped = normal(&format!("{}={}", kind.to_uppercase(), all_escaped(&value.to_uppercase())));
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            prop_assert_eq!(normal(&format!(" {kind} = \"{quoted}\" ")), escaped);
        }

        #[test]
        fn the_quick_path_agrees_with_the_thorough_one(value in "[a-zA-Z0-9=._ -]{0,16}") {
            let plain = format!("ou={value},dc=Example");
            prop_assert!(is_plain(&plain));
            prop_assert_eq!(normal(&plain), normal(&format!("ou={},dc=Example", all_escaped(&value))));
        }

        #[test]
        fn one_after_the_other_is_as_each_alone(dns in prop::collection::vec(
            "(CN|uid|oid.1)= ?[a-cA ,=+]{0,3}(, OU=People,dc=Org|,ou=people,DC=org|,ou=x\\\\2cy|,|,x|)", 0..12,
        )) {
            let mut normaliser = Normaliser::default();
            for dn in &dns {
                prop_assert_eq!(normaliser.normalise(dn).map(str::to_owned), normalise(dn), "{}", dn);
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            if let Some(once) = normalise(&text) {
                prop_assert_eq!(normalise(&once), Some(once));
            }
        }
    }
}
