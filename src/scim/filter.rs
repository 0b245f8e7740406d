//! Reads filters and patch paths (RFC 7644 sections 3.4.2.2 and 3.5.2), with the two forms Entra ID adds: `emails[…].value eq "x"`
//! and values without quotes. Says what was written, not what it means: that is `evaluate`.

use serde_json::Value;

use super::Error;

/// Longest filter, in bytes.
pub const LONGEST: usize = 8 * 1024;
/// Deepest nesting of parentheses and brackets.
pub const DEEPEST: usize = 32;
/// Most comparisons in one filter.
pub const MOST_TERMS: usize = 100;

/// A filter as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Filter {
    And(Vec<Self>),
    Or(Vec<Self>),
    Not(Box<Self>),
    Test(Test),
    /// `attribute[inside]`, and `attribute[inside].sub op value`: an element that fits both.
    Element {
        path: String,
        inside: Box<Self>,
        then: Option<Test>,
    },
}

/// One comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Test {
    /// Attribute path; behind `]` and within brackets a sub-attribute's name.
    pub path: String,
    pub op: Op,
    pub value: Literal,
}

/// A value as written.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    Text(String),
    /// A number or a word without quotes.
    Bare(String),
    Bool(bool),
    Null,
}

/// RFC 7644, table 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Eq,
    Ne,
    Co,
    Sw,
    Ew,
    Gt,
    Ge,
    Lt,
    Le,
    Pr,
}

impl Op {
    fn read(word: &str) -> Option<Self> {
        Some(match word.to_ascii_lowercase().as_str() {
            "eq" => Self::Eq,
            "ne" => Self::Ne,
            "co" => Self::Co,
            "sw" => Self::Sw,
            "ew" => Self::Ew,
            "gt" => Self::Gt,
            "ge" => Self::Ge,
            "lt" => Self::Lt,
            "le" => Self::Le,
            "pr" => Self::Pr,
            _ => return None,
        })
    }
}

/// The path of a patch operation as written.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    pub attribute: String,
    pub filter: Option<Filter>,
    /// Behind the brackets; without brackets it is part of `attribute`.
    pub sub: Option<String>,
}

/// Reads a filter.
///
/// # Errors
/// `invalidFilter` with the place; never panics, whatever the text.
pub fn parse(text: &str) -> Result<Filter, Error> {
    if text.len() > LONGEST {
        return Err(Error::invalid_filter(format!("the filter is longer than {LONGEST} bytes")));
    }
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0 };
    parser.any().and_then(|filter| parser.end().map(|()| filter)).map_err(Error::invalid_filter)
}

/// Reads the path of a patch operation.
///
/// # Errors
/// `invalidPath` with the place.
pub fn parse_path(text: &str) -> Result<Path, Error> {
    if text.len() > LONGEST {
        return Err(Error::invalid_path(format!("the path is longer than {LONGEST} bytes")));
    }
    let mut parser = Parser { text, at: 0, depth: 0, terms: 0 };
    parser.path().and_then(|path| parser.end().map(|()| path)).map_err(Error::invalid_path)
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    depth: usize,
    terms: usize,
}

impl<'t> Parser<'t> {
    fn fail<T>(&self, what: &str) -> Result<T, String> {
        Err(format!("{what} at character {}", self.text[..self.at].chars().count() + 1))
    }

    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn take(&mut self, sign: char) -> bool {
        let found = self.rest().starts_with(sign);
        if found {
            self.at += sign.len_utf8();
        }
        found
    }

    fn end(&mut self) -> Result<(), String> {
        self.spaces();
        if self.rest().is_empty() { Ok(()) } else { self.fail("something is left over") }
    }

    /// The word that comes next, taken only if it is this one and ends there.
    fn keyword(&mut self, word: &str) -> bool {
        let rest = self.rest();
        let fits = rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && rest[word.len()..].starts_with([' ', '\t', '(', '\n', '\r']);
        if fits {
            self.at += word.len();
        }
        fits
    }

    fn any(&mut self) -> Result<Filter, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return self.fail("nested too deeply");
        }
        let mut parts = vec![self.all()?];
        loop {
            self.spaces();
            if !self.keyword("or") {
                break;
            }
            parts.push(self.all()?);
        }
        self.depth -= 1;
        Ok(one_or(parts, Filter::Or))
    }

    fn all(&mut self) -> Result<Filter, String> {
        let mut parts = vec![self.single()?];
        loop {
            self.spaces();
            if !self.keyword("and") {
                break;
            }
            parts.push(self.single()?);
        }
        Ok(one_or(parts, Filter::And))
    }

    fn single(&mut self) -> Result<Filter, String> {
        self.spaces();
        let before = self.at;
        if self.keyword("not") {
            self.spaces();
            if self.rest().starts_with('(') {
                return Ok(Filter::Not(Box::new(self.single()?)));
            }
            self.at = before;
        }
        if self.take('(') {
            let inside = self.any()?;
            self.spaces();
            return if self.take(')') { Ok(inside) } else { self.fail("`)` is missing") };
        }
        self.expression()
    }

    fn expression(&mut self) -> Result<Filter, String> {
        self.terms += 1;
        if self.terms > MOST_TERMS {
            return self.fail("too many comparisons");
        }
        let path = self.name("an attribute")?.to_owned();
        if !self.take('[') {
            return Ok(Filter::Test(self.comparison(path)?));
        }
        let inside = Box::new(self.inside()?);
        let then = if self.take('.') {
            let sub = self.name("a sub-attribute")?.to_owned();
            Some(self.comparison(sub)?)
        } else {
            None
        };
        Ok(Filter::Element { path, inside, then })
    }

    fn inside(&mut self) -> Result<Filter, String> {
        let inside = self.any()?;
        self.spaces();
        if self.take(']') { Ok(inside) } else { self.fail("`]` is missing") }
    }

    fn comparison(&mut self, path: String) -> Result<Test, String> {
        self.spaces();
        let word = self.word(|letter| letter.is_ascii_alphabetic());
        let Some(op) = Op::read(word) else { return self.fail("an operator is missing") };
        if op == Op::Pr {
            return Ok(Test { path, op, value: Literal::Null });
        }
        let gap = self.at;
        self.spaces();
        if gap == self.at {
            return self.fail("a space and a value are missing");
        }
        Ok(Test { path, op, value: self.literal()? })
    }

    fn literal(&mut self) -> Result<Literal, String> {
        if self.rest().starts_with('"') {
            return self.quoted();
        }
        let word = self.word(|letter| !letter.is_whitespace() && !matches!(letter, '(' | ')' | '[' | ']' | '"'));
        Ok(match word {
            "" => return self.fail("a value is missing"),
            "null" => Literal::Null,
            _ if word.eq_ignore_ascii_case("true") => Literal::Bool(true),
            _ if word.eq_ignore_ascii_case("false") => Literal::Bool(false),
            _ => Literal::Bare(word.to_owned()),
        })
    }

    /// A JSON string: JSON's own reader finds its end.
    fn quoted(&mut self) -> Result<Literal, String> {
        let mut values = serde_json::Deserializer::from_str(self.rest()).into_iter::<Value>();
        match values.next() {
            Some(Ok(Value::String(text))) => {
                self.at += values.byte_offset();
                Ok(Literal::Text(text))
            }
            _ => self.fail("a text in quotes does not end or is malformed"),
        }
    }

    fn path(&mut self) -> Result<Path, String> {
        self.spaces();
        let attribute = self.name("an attribute")?.to_owned();
        let filter = if self.take('[') { Some(self.inside()?) } else { None };
        let sub =
            if filter.is_some() && self.take('.') { Some(self.name("a sub-attribute")?.to_owned()) } else { None };
        Ok(Path { attribute, filter, sub })
    }

    fn name(&mut self, what: &str) -> Result<&'t str, String> {
        let name = self.word(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | ':' | '.' | '$'));
        if name.is_empty() || name.ends_with('.') { self.fail(&format!("{what} is missing")) } else { Ok(name) }
    }

    fn word(&mut self, fits: impl Fn(char) -> bool) -> &'t str {
        let rest = self.rest();
        let word = &rest[..rest.find(|letter| !fits(letter)).unwrap_or(rest.len())];
        self.at += word.len();
        word
    }
}

fn one_or(mut parts: Vec<Filter>, several: impl Fn(Vec<Filter>) -> Filter) -> Filter {
    match parts.len() {
        1 => parts.swap_remove(0),
        _ => several(parts),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn test(path: &str, op: Op, value: Literal) -> Filter {
        Filter::Test(Test { path: path.to_owned(), op, value })
    }

    fn text(value: &str) -> Literal {
        Literal::Text(value.to_owned())
    }

    #[test]
    fn and_binds_closer_than_or_and_words_are_read_in_any_case() {
        let one = test("a", Op::Eq, text("x"));
        let two = test("b", Op::Pr, Literal::Null);
        let three = test("c.d", Op::Ne, Literal::Bool(true));
        let read = parse(r#"a Eq "x" OR b PR And c.d ne true"#).unwrap();
        assert_eq!(read, Filter::Or(vec![one.clone(), Filter::And(vec![two.clone(), three.clone()])]));
        let read = parse(r#"(a eq "x" or b pr) and not (c.d ne true)"#).unwrap();
        assert_eq!(read, Filter::And(vec![Filter::Or(vec![one, two]), Filter::Not(Box::new(three))]));
    }

    #[test]
    fn entra_id_compares_behind_brackets_and_leaves_quotes_out() {
        let inside = Box::new(test("type", Op::Eq, text("work")));
        let then = Some(Test { path: "value".to_owned(), op: Op::Eq, value: text("ann@x") });
        let expected = Filter::Element { path: "emails".to_owned(), inside: inside.clone(), then };
        assert_eq!(parse(r#"emails[type eq "work"].value eq "ann@x""#).unwrap(), expected);
        let plain = Filter::Element { path: "emails".to_owned(), inside, then: None };
        assert_eq!(parse(r#"emails[type eq "work"]"#).unwrap(), plain);
        let bare = test("externalId", Op::Eq, Literal::Bare("jyoung".to_owned()));
        assert_eq!(parse("externalId eq jyoung").unwrap(), bare);
        assert_eq!(parse("(externalId eq jyoung)").unwrap(), bare);
    }

    #[test]
    fn quotes_hold_what_json_allows() {
        assert_eq!(parse(r#"a eq "x\" or b eq \u00e9 (""#).unwrap(), test("a", Op::Eq, text("x\" or b eq é (")));
    }

    #[test]
    fn nonsense_is_refused_with_its_place() {
        for (wrong, detail) in [
            ("", "an attribute is missing at character 1"),
            ("userName", "an operator is missing at character 9"),
            ("userName xx \"a\"", "an operator is missing at character 12"),
            ("userName eq", "a space and a value are missing at character 12"),
            ("userName eq \"a", "a text in quotes does not end or is malformed at character 13"),
            ("(userName pr", "`)` is missing at character 13"),
            ("a[b pr", "`]` is missing at character 7"),
            ("a pr b pr", "something is left over at character 6"),
            ("a. pr", "an attribute is missing at character 3"),
        ] {
            let error = parse(wrong).unwrap_err();
            assert_eq!((error.kind, error.detail.as_str()), (Some("invalidFilter"), detail), "{wrong}");
        }
        let deep = format!("{}a pr{}", "(".repeat(5000), ")".repeat(5000));
        assert!(parse(&deep[..LONGEST.min(deep.len())]).is_err());
        let many = vec!["a pr"; MOST_TERMS + 1].join(" or ");
        assert!(parse(&many).unwrap_err().detail.starts_with("too many comparisons"));
    }

    #[test]
    fn paths_have_brackets_and_a_part_behind_them() {
        let path = parse_path(r#"addresses[type eq "work"].formatted"#).unwrap();
        assert_eq!((path.attribute.as_str(), path.sub.as_deref()), ("addresses", Some("formatted")));
        assert!(path.filter.is_some());
        assert_eq!(parse_path("name.familyName").unwrap().attribute, "name.familyName");
        for wrong in ["", "a[", "a[]", "a[b]", "a b", "[a eq 1]", "a[b pr].", "emails[type eq \"work\"]value"] {
            assert_eq!(parse_path(wrong).unwrap_err().kind, Some("invalidPath"), "{wrong}");
        }
    }

    fn comparison(path: &'static str) -> impl Strategy<Value = Test> {
        let op =
            prop::sample::select(vec![Op::Eq, Op::Ne, Op::Co, Op::Sw, Op::Ew, Op::Gt, Op::Ge, Op::Lt, Op::Le, Op::Pr]);
        let value = prop_oneof![
            "\\PC{0,8}".prop_map(Literal::Text),
            "[0-9]{1,4}".prop_map(Literal::Bare),
            any::<bool>().prop_map(Literal::Bool),
            Just(Literal::Null),
        ];
        (path, op, value).prop_map(|(path, op, value)| {
            let value = if op == Op::Pr { Literal::Null } else { value };
            Test { path, op, value }
        })
    }

    fn any_filter() -> impl Strategy<Value = Filter> {
        let test = comparison("[a-m][a-z]{0,4}(\\.[a-z]{1,3})?").prop_map(Filter::Test);
        let joined = |inner: BoxedStrategy<Filter>| {
            let several = || prop::collection::vec(inner.clone(), 2..4);
            let then = prop::option::of(comparison("[a-m]{1,4}"));
            let element = ("[a-m]{1,5}", inner.clone(), then);
            prop_oneof![
                several().prop_map(Filter::And),
                several().prop_map(Filter::Or),
                inner.clone().prop_map(|part| Filter::Not(Box::new(part))),
                element.prop_map(|(path, inside, then)| Filter::Element { path, inside: Box::new(inside), then }),
            ]
        };
        test.prop_recursive(4, 24, 3, move |inner| joined(inner.boxed()))
    }

    fn written_test(Test { path, op, value }: &Test) -> String {
        let op = format!("{op:?}");
        let value = match value {
            _ if op == "Pr" => return format!("{path} {op}"),
            Literal::Text(text) => Value::from(text.as_str()).to_string(),
            Literal::Bare(word) => word.clone(),
            Literal::Bool(flag) => flag.to_string(),
            Literal::Null => "null".to_owned(),
        };
        format!("{path} {op} {value}")
    }

    fn written(filter: &Filter) -> String {
        let joined = |parts: &[Filter], word: &str| parts.iter().map(written).collect::<Vec<_>>().join(word);
        match filter {
            Filter::And(parts) => format!("({})", joined(parts, " AND ")),
            Filter::Or(parts) => format!("({})", joined(parts, " or ")),
            Filter::Not(part) => format!("not ({})", written(part)),
            Filter::Test(test) => written_test(test),
            Filter::Element { path, inside, then } => {
                let then = then.as_ref().map(|then| format!(".{}", written_test(then))).unwrap_or_default();
                format!("{path}[{}]{then}", written(inside))
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(filter in any_filter()) {
            prop_assert_eq!(parse(&written(&filter)).unwrap(), filter);
        }

        #[test]
        fn no_text_is_too_odd(text in "\\PC{0,80}") {
            let _ = parse(&text);
            let _ = parse_path(&text);
        }

        #[test]
        fn nothing_made_of_the_grammar_is_too_odd(
            words in proptest::collection::vec(
                prop::sample::select(vec![
                    "a", "emails", "[", "]", "(", ")", "eq", "pr", "and", "or", "not", "\"x\"", ".value", " ", "true", "null", "é",
                ]),
                0..30,
            )
        ) {
            let _ = parse(&words.concat());
            let _ = parse(&words.join(" "));
        }
    }
}
