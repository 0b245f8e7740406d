//! Just enough of Rust's grammar to see which paths a file names and which verbs its command line has; it resolves nothing.

/// A piece of source without comments and white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// An identifier, a keyword or a number.
    Word(String),
    /// The inside of a string literal.
    Text(String),
    /// `::` as `:` `:`; lifetimes and characters are dropped.
    Sign(char),
}

impl Token {
    pub fn is(&self, word: &str) -> bool {
        matches!(self, Self::Word(own) if own == word)
    }

    fn is_sign(&self, sign: char) -> bool {
        *self == Self::Sign(sign)
    }
}

/// Cuts `text` into tokens.
pub fn tokens(text: &str) -> Vec<Token> {
    let characters: Vec<char> = text.chars().collect();
    let mut found = Vec::new();
    let mut at = 0;
    while at < characters.len() {
        let rest = &characters[at..];
        at += match rest[0] {
            '/' if rest.get(1) == Some(&'/') => rest.iter().take_while(|&&c| c != '\n').count(),
            '/' if rest.get(1) == Some(&'*') => block_comment(rest),
            '"' => string(rest, &mut found),
            'r' | 'b' if raw_string(rest).is_some() => {
                let (inside, length) = raw_string(rest).unwrap_or_default();
                found.push(Token::Text(inside));
                length
            }
            '\'' => quote(rest),
            c if c.is_alphanumeric() || c == '_' => {
                let word: String = rest.iter().take_while(|&&c| c.is_alphanumeric() || c == '_').collect();
                let length = word.chars().count();
                found.push(Token::Word(word));
                length
            }
            c => {
                if !c.is_whitespace() {
                    found.push(Token::Sign(c));
                }
                1
            }
        };
    }
    found
}

/// Length of a block comment; they nest.
fn block_comment(rest: &[char]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match (rest[at], rest.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at
}

fn string(rest: &[char], found: &mut Vec<Token>) -> usize {
    let mut inside = String::new();
    let mut at = 1;
    while at < rest.len() && rest[at] != '"' {
        if rest[at] == '\\' {
            at += 1;
        }
        inside.extend(rest.get(at));
        at += 1;
    }
    found.push(Token::Text(inside));
    at + 1
}

/// The inside and the length of `r"…"`, `r#"…"#`, `br"…"`.
fn raw_string(rest: &[char]) -> Option<(String, usize)> {
    let prefix = rest.iter().take_while(|&&c| c == 'r' || c == 'b').count();
    let hashes = rest[prefix..].iter().take_while(|&&c| c == '#').count();
    let start = prefix + hashes + 1;
    if prefix > 2 || !rest[..prefix].contains(&'r') || rest.get(start - 1) != Some(&'"') {
        return None;
    }
    let end = |at: &usize| rest[*at] == '"' && rest[at + 1..].iter().take_while(|&&c| c == '#').count() >= hashes;
    let end = (start..rest.len()).find(end).unwrap_or(rest.len());
    Some((rest[start..end].iter().collect(), end + 1 + hashes))
}

/// Length of a character literal, or of a lifetime's tick.
fn quote(rest: &[char]) -> usize {
    if rest.get(1) == Some(&'\\') {
        return rest.iter().skip(3).position(|&c| c == '\'').map_or(rest.len(), |at| at + 4);
    }
    if rest.get(2) == Some(&'\'') { 3 } else { 1 }
}

/// Every path the tokens name, the trees of `use` multiplied out (`self` and `as` left out).
pub fn paths(tokens: &[Token]) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if matches!(tokens[at], Token::Word(_)) {
            at = if tokens[at].is("use") {
                tree(tokens, at + 1, &[], &mut found)
            } else {
                tree(tokens, at, &[], &mut found)
            };
        } else {
            at += 1;
        }
    }
    found
}

/// Reads one path or `use` tree from `at` on; where it ends.
fn tree(tokens: &[Token], mut at: usize, above: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut path = above.to_vec();
    let separated = |at: usize| {
        tokens.get(at).is_some_and(|token| token.is_sign(':'))
            && tokens.get(at + 1).is_some_and(|token| token.is_sign(':'))
    };
    if separated(at) {
        at += 2;
    }
    loop {
        match tokens.get(at) {
            Some(Token::Word(word)) => {
                if word != "self" || path.is_empty() {
                    path.push(word.clone());
                }
                at += 1;
            }
            Some(Token::Sign('{')) if path.len() > above.len() || !above.is_empty() => {
                return branches(tokens, at, &path, found);
            }
            _ => break,
        }
        if !separated(at) {
            break;
        }
        at += 2;
        if tokens.get(at).is_some_and(|token| token.is_sign('{')) {
            return branches(tokens, at, &path, found);
        }
    }
    if path.len() > above.len() || !above.is_empty() {
        found.push(path);
    }
    at
}

/// The inside of `{…}` in a `use` tree.
fn branches(tokens: &[Token], open: usize, above: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut at = open + 1;
    while at < tokens.len() && !tokens[at].is_sign('}') {
        let next = if tokens[at].is("as") { at + 2 } else { tree(tokens, at, above, found) };
        at = next.max(at + 1);
    }
    at + 1
}

/// Names of the variants of every enum that derives `Subcommand`, as the command line spells them.
pub fn subcommands(tokens: &[Token]) -> Vec<String> {
    let derived = tokens.iter().enumerate().filter(|(_, token)| token.is("Subcommand")).map(|(at, _)| at);
    derived
        .filter_map(|at| {
            // The item the derive stands on; a semicolon first: it was only an import.
            let item = at
                + tokens[at..].iter().position(|token| token.is("enum") || token.is("struct") || token.is_sign(';'))?;
            let open = item + tokens[item..].iter().position(|token| token.is_sign('{'))?;
            tokens[item].is("enum").then(|| variants(&tokens[open + 1..]))
        })
        .flatten()
        .collect()
}

fn variants(inside: &[Token]) -> Vec<String> {
    let (mut found, mut depth, mut fresh, mut renamed) = (Vec::new(), 0, true, None);
    for (at, token) in inside.iter().enumerate() {
        match token {
            Token::Sign('{' | '(' | '[') => depth += 1,
            Token::Sign('}') if depth == 0 => break,
            Token::Sign('}' | ')' | ']') => depth -= 1,
            Token::Sign(',') if depth == 0 => fresh = true,
            Token::Word(word) if depth == 0 && fresh => {
                found.push(renamed.take().unwrap_or_else(|| kebab(word)));
                fresh = false;
            }
            // `name = "…"` in an attribute of the variant to come.
            Token::Word(word) if word == "name" && fresh => {
                if let Some(Token::Text(name)) = inside.get(at + 2) {
                    renamed = Some(name.clone());
                }
            }
            Token::Word(_) | Token::Text(_) | Token::Sign(_) => {}
        }
    }
    found
}

/// `SourceTest` as `source-test`.
fn kebab(name: &str) -> String {
    let mut spelled = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !spelled.is_empty() {
            spelled.push('-');
        }
        spelled.extend(letter.to_lowercase());
    }
    spelled
}
